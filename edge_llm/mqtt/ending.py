"""The end of a paho client: its thread, its connection and its sockets are gone afterwards.

- At the end no connection is left [1]: paho's thread may make one while it is being stopped.
- A client that has ended goes at once [2]: paho closes the sockets that wake its thread only then,
  and callbacks that know the client would keep it until the garbage collector's next round.
"""

from contextlib import suppress

import paho.mqtt.client as paho

__all__ = ["end_client"]

CALLBACKS = (
    "on_connect",
    "on_connect_fail",
    "on_disconnect",
    "on_message",
    "on_publish",
    "on_socket_open",
    "on_subscribe",
)


def end_client(client: paho.Client) -> None:
    """Disconnect, and return when its thread has ended.

    That takes as long as a connection takes to come about, or for ever at a broker that does not
    read: call it in a thread, which ends the client also when nobody waits for it any more.
    """
    client.disconnect()
    with suppress(AttributeError):  # paho joins a thread that may have unset itself a moment before
        client.loop_stop()
    if client.socket() is not None:  # [1]
        client.disconnect()
    for callback in CALLBACKS:  # [2]
        setattr(client, callback, None)
