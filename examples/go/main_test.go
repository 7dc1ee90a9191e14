package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// start runs a server as the stand-in for QEMU and connects to it.
func start(t *testing.T) *qmp.SocketMonitor {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "q.sock")
	server := exec.Command("qmpserver", "-fake", "default", "-smp", "2", "-qmp", "unix:"+socket+",server=on,wait=off")
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		monitor, err := Connect(socket)
		if err == nil {
			t.Cleanup(func() { monitor.Disconnect() })
			return monitor
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestSetAndCancel(t *testing.T) {
	monitor := start(t)
	if err := SetLimit(monitor, 42); err != nil {
		t.Fatal(err)
	}
	limits, err := Limits(monitor)
	if err != nil || len(limits) != 2 || limits[1].CPUIndex != 1 || limits[1].LimitRate != 42 {
		t.Fatal(limits, err)
	}
	if err := CancelLimit(monitor); err != nil {
		t.Fatal(err)
	}
	if limits, err = Limits(monitor); err != nil || len(limits) != 0 {
		t.Fatal(limits, err)
	}
}

func TestRefused(t *testing.T) {
	err := execute(start(t), nil, "set-vcpu-dirty-limit", map[string]any{"cpu-index": 9, "dirty-rate": 1})
	if err == nil || err.Error() != "set-vcpu-dirty-limit: incorrect cpu index specified" {
		t.Fatal(err)
	}
}

func TestEvents(t *testing.T) {
	monitor := start(t)
	events, err := monitor.Events(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	go execute(monitor, nil, "stop", nil)
	if event := <-events; event.Event != "STOP" || event.Timestamp.Seconds == 0 {
		t.Fatal(event)
	}
}

func TestAbsentSocket(t *testing.T) {
	if _, err := Connect(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Fatal("connected to an absent socket")
	}
}
