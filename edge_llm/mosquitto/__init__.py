"""mosquitto's files on this machine: its accounts, its certificates and its listeners."""

from edge_llm.mosquitto.accounts import PasswordFile, explain_bad_name, make_password
from edge_llm.mosquitto.certificates import default_hosts, fingerprint, host_names
from edge_llm.mosquitto.listeners import Listener, find_listeners
from edge_llm.mosquitto.reload import reload_mosquitto
from edge_llm.mosquitto.rights import STAFF, read_users
from edge_llm.mosquitto.setup import set_up

__all__ = [
    "STAFF",
    "Listener",
    "PasswordFile",
    "default_hosts",
    "explain_bad_name",
    "find_listeners",
    "fingerprint",
    "host_names",
    "make_password",
    "read_users",
    "reload_mosquitto",
    "set_up",
]
