"""A way to a server over TCP that loses what it is told to lose: for tests of clients that must not mind."""

from __future__ import annotations

import socket
import threading


class CuttingProxy:
    """Forwards to 127.0.0.1:`port`. `lose_replies`: so many next replies vanish after the server has done the work;
    `cut_after`: bytes after which a connection breaks, 0 never."""

    def __init__(self, port: int) -> None:
        self.target = port
        self.lose_replies = 0
        self.cut_after = 0
        self.cuts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
            try:
                self._answer(client, server)
                client.shutdown(socket.SHUT_RDWR)  # closing alone tells nobody while the other thread reads
            except OSError:  # either side has left
                return

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        sent = 0
        while reply := server.recv(1 << 16):
            if self.lose_replies:
                self.lose_replies -= 1
                return
            if self.cut_after and sent + len(reply) > self.cut_after:
                client.sendall(reply[: self.cut_after - sent])
                self.cuts += 1
                return
            client.sendall(reply)
            sent += len(reply)

    @staticmethod
    def _forward(client: socket.socket, server: socket.socket) -> None:
        try:
            while request := client.recv(1 << 16):
                server.sendall(request)
            server.shutdown(socket.SHUT_WR)
        except OSError:  # either side has left
            return
