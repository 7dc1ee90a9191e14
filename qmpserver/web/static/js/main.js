// Connects the parts of the page: frames of /live go to the panels, their commands go to /qmp.

import { Changes } from "./changes.js";
import { Chart } from "./chart.js";
import * as colors from "./colors.js";
import { watchConnection } from "./connection.js";
import { Console } from "./console.js";
import { byId, setText } from "./dom.js";
import { EventLog } from "./events.js";
import { size } from "./format.js";
import { Handles } from "./handles.js";
import { History } from "./history.js";
import { bindKeys } from "./keys.js";
import { Limits } from "./limits.js";
import { Migration } from "./migration.js";
import { Qmp } from "./qmp.js";
import { ReaperPanel } from "./reaper.js";
import { RunState } from "./runstate.js";
import { Socket } from "./socket.js";
import { Tracking } from "./tracking.js";
import { VcpuTable } from "./vcpus.js";

const TABLES_EVERY = 2; // frames: numbers that change faster are unreadable

const live = new Socket("live");
const qmpSocket = new Socket("qmp");
const qmp = new Qmp(qmpSocket);
const log = new EventLog();
const report = (command, error) => log.bad(`${command}: ${error.message}`);
const changes = new Changes(log);
const limits = new Limits(qmp, report);
const runState = new RunState(qmp, report);
const migration = new Migration(qmp, report);
const tracking = new Tracking(qmp, log);
const line = new Console(qmp);

let machine = null;
let history = new History(0);
let table = null;
let reaper = null;
let frames = 0;
const chart = new Chart(byId("plot"), history);
const handles = new Handles(byId("plot"), chart, limits);

function setMachine(next) {
  const same = machine && ["vcpus", "ring-size"].every((key) => next[key] === machine[key]);
  machine = next;
  setText(byId("name"), next.name ?? "qmpserver");
  document.title = next.name ? `${next.name} | qmpserver` : "qmpserver";
  const ring = next["ring-size"] ? `dirty ring of ${next["ring-size"]}` : "no dirty ring";
  setText(byId("facts"), `${next.accel} · ${next.vcpus} vCPUs · ${size(next.memory)} · ${ring} · qmpserver ${next.version}`);
  tracking.setMachine(next);
  changes.reset();
  reaper = new ReaperPanel(next);
  limits.vcpus = next.vcpus;
  if (same) return; // the server was restarted: keep the history
  history = new History(next.vcpus);
  chart.setHistory(history);
  table = new VcpuTable(next, chart, history, limits);
}

function show(frame) {
  history.add(frame);
  changes.update(frame);
  handles.update(frame.limits);
  chart.draw();
  frames += 1;
  const visible = !document.hidden && frames % TABLES_EVERY === 0;
  table.update(frame, visible);
  if (!visible) return;
  runState.update(frame);
  migration.update(frame);
  tracking.update(frame);
  reaper.update(frame);
}

live.addEventListener("message", ({ detail }) => {
  const message = JSON.parse(detail);
  if ("vcpus" in message) setMachine(message);
  else show(message);
});
qmp.addEventListener("event", ({ detail }) => log.event(detail));
qmp.addEventListener("ready", () => log.note("connected"));
qmp.addEventListener("lost", () => log.bad("not connected"));
chart.addEventListener("point", () => table?.showRates());
colors.onChange(() => table?.paint());

for (const radio of document.querySelectorAll("#window input")) {
  radio.onchange = () => chart.setWindow(Number(radio.value));
}
for (const radio of document.querySelectorAll("#scale input")) {
  radio.onchange = () => chart.setLog(radio.value === "log");
}

function hold() {
  chart.held = chart.held === null ? history.end : null;
  byId("hold").setAttribute("aria-pressed", String(chart.held !== null));
  chart.draw();
}
byId("hold").onclick = hold;

const press = (id) => () => byId(id).click();
const choose = (name, value) => () => document.querySelector(`input[name=${name}][value="${value}"]`).click();
bindKeys(
  {
    "/": ["Type a QMP command", () => line.focus()],
    l: ["Type a limit for all vCPUs", () => table?.focusLimit()],
    c: ["Cancel all limits", () => limits.cancel(Array.from({ length: limits.vcpus }, (_, index) => index))],
    s: ["Stop or resume the guest", press("run")],
    m: ["Measure the dirty rate", press("measure")],
    h: ["Hold or resume the chart", hold],
    1: ["Show 30 s", choose("window", 30)],
    2: ["Show 1 min", choose("window", 60)],
    3: ["Show 5 min", choose("window", 300)],
    y: ["Switch between linear and logarithmic scale", () => document.querySelector("#scale input:not(:checked)").click()],
  },
  {
    "↑ ↓": "On a limit in the chart: change it (Page Up doubles, Page Down halves, Delete cancels); in the console: previous lines",
    Tab: "In the console: accept the completion; Escape closes the list",
  },
);

watchConnection(live, qmpSocket);
live.open();
qmpSocket.open();
