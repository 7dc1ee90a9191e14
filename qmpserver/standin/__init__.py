"""A stand-in for QEMU in other people's test suites: ``qmpserver -fake SCENARIO -qmp ...``.

The protocol and its sessions are the real server's.  What a command answers is decided in turn by
the scenario, by the state of a machine that does not exist, and by the schema.

    scenario = Scenario.load("crash.toml")  # or Scenario.read({"on": [...]})
    async with StandIn(scenario) as fake:
        await fake.listen("unix:/tmp/q.sock,server=on,wait=off")
        await fake.finished.wait()  # a client said quit
    print(fake.failures())  # what was expected and did not come
"""

from qmpserver.standin.parts import ScenarioError
from qmpserver.standin.scenario import Scenario
from qmpserver.standin.server import StandIn

__all__ = ["Scenario", "ScenarioError", "StandIn"]
