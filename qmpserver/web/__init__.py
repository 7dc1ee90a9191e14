"""HTTP in front of a machine: dashboard, metrics, QMP.

All modules but `address` need aiohttp: import them only if `-http` is given. To add a route, write
a class with `add_routes(app)` and call it in `app.make_app`; `security.Guard` checks all requests.
"""
