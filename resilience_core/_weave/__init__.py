"""How a policy gets around a call: call sites, the edge, gates, streams, deadlines and waiting."""
