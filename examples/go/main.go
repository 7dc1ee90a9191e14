// Command limit sets a dirty limit on every vCPU of a machine, prints the machine's events for a
// while, and cancels the limit. The machine is this server or QEMU.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/digitalocean/go-qemu/qmp"
)

// Limit is the dirty limit of one vCPU, as query-vcpu-dirty-limit returns it; rates are in MB/s.
type Limit struct {
	CPUIndex    int   `json:"cpu-index"`
	LimitRate   int64 `json:"limit-rate"`
	CurrentRate int64 `json:"current-rate"`
}

// execute runs a command and decodes its return value into result, unless result is nil.
func execute(monitor qmp.Monitor, result any, command string, arguments map[string]any) error {
	request := qmp.Command{Execute: command}
	if arguments != nil {
		request.Args = arguments
	}
	message, err := json.Marshal(request)
	if err != nil {
		return err
	}
	answer, err := monitor.Run(message)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer, &struct {
		Return any `json:"return"`
	}{result})
}

// SetLimit limits every vCPU to rate MB/s.
func SetLimit(monitor qmp.Monitor, rate int64) error {
	return execute(monitor, nil, "set-vcpu-dirty-limit", map[string]any{"dirty-rate": rate})
}

// CancelLimit cancels the limit of every vCPU.
func CancelLimit(monitor qmp.Monitor) error {
	return execute(monitor, nil, "cancel-vcpu-dirty-limit", nil)
}

// Limits returns the limited vCPUs.
func Limits(monitor qmp.Monitor) (limits []Limit, err error) {
	err = execute(monitor, &limits, "query-vcpu-dirty-limit", nil)
	return limits, err
}

// Connect connects to the QMP socket and negotiates capabilities.
func Connect(socket string) (*qmp.SocketMonitor, error) {
	monitor, err := qmp.NewSocketMonitor("unix", socket, 2*time.Second)
	if err != nil {
		return nil, err
	}
	if err := monitor.Connect(); err != nil {
		return nil, fmt.Errorf("%s: not a QMP server: %w", socket, err)
	}
	return monitor, nil
}

func run(socket string, rate int64, duration time.Duration) error {
	monitor, err := Connect(socket)
	if err != nil {
		return err
	}
	defer monitor.Disconnect()
	events, err := monitor.Events(context.Background())
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 2)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	// A goroutine of its own, because the library delivers no answer while an event is unread.
	go func() {
		for event := range events {
			fmt.Println(event.Event, event.Data)
		}
		stop <- syscall.SIGHUP // the server closed the connection
	}()
	if err := SetLimit(monitor, rate); err != nil {
		return err
	}
	end, tick := time.After(duration), time.NewTicker(time.Second)
	for {
		select {
		case <-tick.C:
			limits, err := Limits(monitor)
			if err != nil {
				return err
			}
			for _, each := range limits {
				fmt.Printf("vCPU %d: %d of %d MB/s\n", each.CPUIndex, each.CurrentRate, each.LimitRate)
			}
		case why := <-stop:
			if why == syscall.SIGHUP {
				return fmt.Errorf("%s: the server closed the connection", socket)
			}
			return CancelLimit(monitor)
		case <-end:
			return CancelLimit(monitor)
		}
	}
}

func main() {
	rate := flag.Int64("rate", 100, "MB/s for each vCPU")
	duration := flag.Duration("for", 5*time.Second, "time to keep the limit")
	flag.Parse()
	if flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: limit [-rate MB/S] [-for DURATION] SOCKET")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), *rate, *duration); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
