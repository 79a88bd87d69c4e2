"""Speech synthesis by eSpeak NG through ctypes, as a script that runs in its own process.

The waves of eSpeak depend on everything synthesised before in the same process, so a job is reproducible only in a new
one. ``python espeak.py LIBRARY DATA OUT < job`` reads the job {"voice": name, "words": [[word, rate, pitch], …]} as
JSON, writes the int16 waves one after the other into OUT and prints {"rate": Hz, "lengths": [samples, …]} as JSON, or
{"refused": voice} where eSpeak has no such voice. It needs the standard library only; flowport itself never links
eSpeak (GPL).
"""

import ctypes
import json
import sys

SYNCHRONOUS, BY_CHARACTER, UTF8 = 2, 1, 1
RATE, PITCH = 1, 3
"""Constants of eSpeak's interface (speak_lib.h)."""


def main(library: str, data: str, out: str) -> dict[str, object]:
    """Synthesises the words of the job on standard input.

    Args:
        library: Path of eSpeak's shared library.
        data: Path of eSpeak's data folder.
        out: Path of the file of int16 samples to write.

    Returns:
        The sample rate in Hz and the number of samples of each word, or the refused voice.
    """
    job = json.load(sys.stdin)
    espeak, received = ctypes.CDLL(library), bytearray()
    rate = espeak.espeak_Initialize(SYNCHRONOUS, 0, data.encode(), 0)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    def receive(wave: int | None, samples: int, events: int) -> int:
        if wave and samples > 0:
            received.extend(ctypes.string_at(wave, 2 * samples))
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
            file.write(received)
            lengths.append(len(received) // 2)
            received.clear()
    return {"rate": rate, "lengths": lengths}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
