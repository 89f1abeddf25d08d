//! A running machine: memory, reservations, vCPU threads, pausing, and the routing of exits.
