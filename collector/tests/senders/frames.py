"""python3 frames.py FOLDER VECTORS: prints what the sender makes of each framed vector, in hex, one a line."""
import json, sys

sys.path.insert(0, sys.argv[1])
from tallylight import first_key, frame

vectors = json.load(open(sys.argv[2], encoding="utf-8"))
key = first_key(f"# ours\n\n{vectors['key']['id']} {vectors['key']['secret']} # new\n9 {'00' * 32}\n")
for vector in vectors["framed"]:
    source, body = int(vector["source"], 16), vector["body"].encode()
    print(frame(source, vector["sequence"], body, key if vector["key"] is not None else None).hex())
