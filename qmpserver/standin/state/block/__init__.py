"""Block devices: nodes and their graph, drives and their media, jobs, snapshots, exports."""
