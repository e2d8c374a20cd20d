"""A fleet of real nodes at real servers, a crowd that asks it, and faults."""
