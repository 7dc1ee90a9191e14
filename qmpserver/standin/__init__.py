"""A stand-in for QEMU in test suites: `qmpserver -fake SCENARIO -qmp ...`.

It is the real server without a machine. A command is answered by the scenario, else by a simulated
state, else by the schema.

    scenario = Scenario.load("crash.toml")  # or Scenario.read({"on": [...]})
    async with StandIn(scenario) as stand_in:
        await stand_in.serve_unix("/tmp/q.sock")
        await stand_in.finished.wait()  # until a client sends quit
    print(stand_in.failures())  # expectations that are not met
"""

from qmpserver.standin.parts import ScenarioError
from qmpserver.standin.scenario import Scenario
from qmpserver.standin.server import StandIn

__all__ = ["Scenario", "ScenarioError", "StandIn"]
