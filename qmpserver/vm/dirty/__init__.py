"""What the project exists for: tracking, dirty limit, dirty rate. The reaper itself is native."""
