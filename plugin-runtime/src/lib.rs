//! Plugin processes: starting them, their connections, carrying exits, and how they end.
