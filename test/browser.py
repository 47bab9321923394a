# SPDX-License-Identifier: Apache-2.0
"""A headless Chromium, driven over its own pipe: pages, their scripts, pictures of them."""

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(
    filter(
        None,
        map(
            shutil.which,
            ('chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome'),
        ),
    ),
    None,
)
DEADLINE_S = 20.0
TO_CHROMIUM, FROM_CHROMIUM = 3, 4  # the file descriptors that Chromium uses


class Browser:
    """One page of a new browser (DevTools protocol: JSON, each with a zero byte behind it)."""

    def __init__(self, url: str, *, profile: Path, width: int = 1280, height: int = 900):
        read_end, self._send = os.pipe()
        self._receive, write_end = os.pipe()

        def connect():  # above the two, so that neither is overwritten
            ends = os.dup2(read_end, 20), os.dup2(write_end, 21)
            os.dup2(ends[0], TO_CHROMIUM)
            os.dup2(ends[1], FROM_CHROMIUM)

        self._process = subprocess.Popen(
            [
                CHROMIUM,
                '--headless',
                '--no-sandbox',
                '--disable-gpu',
                '--remote-debugging-pipe',
                f'--user-data-dir={profile}',
                f'--window-size={width},{height}',
            ],
            preexec_fn=connect,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_end)
        os.close(write_end)
        self._pending, self._count, self._session = b'', 0, None
        target = self._call('Target.createTarget', url='about:blank', width=width, height=height)[
            'targetId'
        ]
        self._session = self._call('Target.attachToTarget', targetId=target, flatten=True)[
            'sessionId'
        ]
        self._call('Page.navigate', url=url)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._send)
        os.close(self._receive)

    def value(self, script: str):
        """Return the value of a JavaScript expression in the page."""
        return self._call('Runtime.evaluate', expression=script, returnByValue=True)['result'].get(
            'value'
        )

    def wait_for(self, script: str):
        """Return the value of an expression once it is true; fail after DEADLINE_S."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not (value := self.value(script)):
            assert time.monotonic() < deadline_s, f'{script} stayed {value!r} for {DEADLINE_S:g} s'
            time.sleep(0.02)
        return value

    def heap_bytes(self) -> int:
        """Return what the scripts of the page hold, after a collection."""
        self._call('HeapProfiler.collectGarbage')
        return self._call('Runtime.getHeapUsage')['usedSize']

    def picture(self, path: Path) -> None:
        """Write what the page looks like, as PNG."""
        path.write_bytes(base64.b64decode(self._call('Page.captureScreenshot')['data']))

    def _call(self, method: str, **parameters) -> dict:
        self._count += 1
        call = {'id': self._count, 'method': method, 'params': parameters}
        os.write(
            self._send,
            json.dumps(call | ({'sessionId': self._session} if self._session else {})).encode()
            + b'\0',
        )
        while True:
            while b'\0' not in self._pending:
                piece = os.read(self._receive, 1 << 16)
                assert piece, 'Chromium has ended'
                self._pending += piece
            message, _, self._pending = self._pending.partition(b'\0')
            answer = json.loads(message)
            if answer.get('id') == self._count:
                assert 'error' not in answer, answer
                return answer['result']
