"""eSpeak NG by ctypes, as a script for a process of its own: what it says depends on all that it said before.

python espeak.py LIBRARY DATA OUT < job      job, in JSON: {"voice": name, "words": [[word, rate, pitch], …]}

writes the waves one after the other, int16, into OUT and answers {"rate": Hz, "lengths": [samples, …]} in JSON, or
{"refused": voice} for a voice that eSpeak does not know. Standard library only; flowport never links eSpeak (GPL).
"""

import ctypes
import json
import sys

SYNCHRONOUS, BY_CHARACTER, UTF8 = 2, 1, 1
RATE, PITCH = 1, 3
"""Numbers of eSpeak's interface (speak_lib.h)."""


def main(library: str, data: str, out: str) -> dict:
    job = json.load(sys.stdin)
    espeak, heard = ctypes.CDLL(library), bytearray()
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def receive(wave: int | None, samples: int, events: int) -> int:
        if wave and samples > 0:
            heard.extend(ctypes.string_at(wave, 2 * samples))
        return 0

    espeak.espeak_SetSynthCallback(receive)
    if espeak.espeak_SetVoiceByName(job["voice"].encode()) != 0:
        return {"refused": job["voice"]}
    lengths = []
    with open(out, "wb") as file:
        for word, speed, pitch in job["words"]:
            espeak.espeak_SetParameter(RATE, speed, 0)
            espeak.espeak_SetParameter(PITCH, pitch, 0)
            text = word.encode()
            espeak.espeak_Synth(text, len(text) + 1, 0, BY_CHARACTER, 0, UTF8, None, None)
            espeak.espeak_Synchronize()
            file.write(heard)
            lengths.append(len(heard) // 2)
            heard.clear()
    return {"rate": rate, "lengths": lengths}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
