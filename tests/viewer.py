"""A client of the window without a browser: viser's own protocol over a websocket of this machine."""

import time

import msgspec
import numpy as np
import viser
import zstandard
from viser.transforms import SO3
from websockets.sync.client import connect


class Viewer:
    """A client with a camera that looks at the origin from a given position, and that reads the window's messages."""

    def __init__(self, url):
        protocol = f"viser-v{viser.__version__}"
        self._socket = connect(url.replace("http", "ws", 1), subprotocols=[protocol], max_size=None, compression=None)

    def close(self):
        self._socket.close()

    def look(self, azimuth, distance=3.0):
        """From the horizon, degrees from the front."""
        a = np.deg2rad(azimuth)
        back = np.array([np.sin(a), 0.0, np.cos(a)])
        down = np.array([0.0, -1.0, 0.0])
        axes = np.stack([np.cross(down, -back), down, -back], axis=1)  # right, down, forward
        lens = {"fov": 0.7, "near": 0.01, "far": 100.0, "image_height": 30, "image_width": 40}
        pose = {"wxyz": SO3.from_matrix(axes).wxyz.tolist(), "position": (distance * back).tolist()}
        self._send("ViewerCameraMessage", **lens, **pose, look_at=[0.0, 0.0, 0.0], up_direction=[0.0, 1.0, 0.0])

    def wait_for(self, *wanted, seconds=900.0):
        """Read messages until each of the texts has been received."""
        end, missing = time.monotonic() + seconds, set(wanted)
        while missing:
            content = self._socket.recv(timeout=max(end - time.monotonic(), 0.1))
            size = int.from_bytes(content[8:16], "little")  # of the compressed messages, which begin at 16
            messages = zstandard.ZstdDecompressor().decompress(content[16 : 16 + size])
            missing = {text for text in missing if text.encode() not in messages}

    def _send(self, kind, **values):
        self._socket.send(msgspec.msgpack.encode({"type": kind, **values}))
