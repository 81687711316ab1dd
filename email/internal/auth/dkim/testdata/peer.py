"""Lets dkimpy and OpenDKIM's library do the jobs in a JSON list on stdin, and
prints what they say as JSON. Keys are looked up in a job's "records"."""
import base64, ctypes, json, os, sys, tempfile
import dkim

job = {}


def records():
    return job.get("records") or {}


def lookup(name, timeout=5):
    name = name.decode() if isinstance(name, bytes) else name
    return records().get(name.rstrip("."), "").encode() or None


def verify(msg):
    d = dkim.DKIM(msg)
    n = sum(1 for name, _ in d.headers if name.lower() == b"dkim-signature")
    out = []
    for i in range(n):
        try:
            out.append("pass" if d.verify(idx=i, dnsfunc=lookup) else "fail")
        except dkim.DKIMException as e:
            out.append(str(e))
    return out


def sign(msg):
    canon = tuple(c.encode() for c in job["canon"].split("/"))
    return dkim.sign(
        msg, job["selector"].encode(), job["domain"].encode(), job["key"].encode(),
        canonicalize=canon, signature_algorithm=job["algorithm"].encode(), length=job.get("length", False),
    ).decode()


def arcsign(msg):
    fields = dkim.arc_sign(msg, job["selector"].encode(), job["domain"].encode(), job["key"].encode(), b"peer.example")
    return b"".join(fields).decode()


def arcverify(msg):
    cv, _, reason = dkim.arc_verify(msg, dnsfunc=lookup)
    return [(cv or b"none").decode(), str(reason)]


def library():
    lib = ctypes.CDLL("libopendkim.so.11")
    for name in ("dkim_init", "dkim_verify", "dkim_sign"):
        getattr(lib, name).restype = ctypes.c_void_p
    pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    lib.dkim_options.argtypes = [pointer, ctypes.c_int, ctypes.c_int, pointer, size]
    lib.dkim_verify.argtypes = [pointer, text, pointer, pointer]
    lib.dkim_sign.argtypes = [pointer, text, pointer, text, text, text] + 3 * [ctypes.c_int] + [ctypes.c_ssize_t, pointer]
    lib.dkim_getsighdr.argtypes = [pointer, text, size, size]
    lib.dkim_header.argtypes = [pointer, text, size]
    lib.dkim_body.argtypes = [pointer, text, size]
    lib.dkim_eoh.argtypes = [pointer]
    lib.dkim_eom.argtypes = [pointer, pointer]
    return lib


def feed(lib, d, msg):
    head, _, body = msg.partition(b"\r\n\r\n")
    field = b""
    for line in head.split(b"\r\n") + [b"X"]:
        if line[:1] in (b" ", b"\t"):
            field += b"\r\n" + line
            continue
        if field and lib.dkim_header(d, field, len(field)) != 0:
            raise ValueError("OpenDKIM refuses a field")
        field = line
    lib.dkim_eoh(d)
    if body:
        lib.dkim_body(d, body, len(body))
    return lib.dkim_eom(d, None)


def opendkim(msg):
    """Verifies with OpenDKIM, whose keys come from a file."""
    lib = library()
    with tempfile.NamedTemporaryFile("w") as f:
        for name, record in records().items():
            f.write(name + " " + record + "\n")
        f.flush()
        h = lib.dkim_init(None, None)
        method, path = ctypes.c_int(1), ctypes.create_string_buffer(f.name.encode())
        lib.dkim_options(h, 1, 6, ctypes.addressof(method), ctypes.sizeof(method))  # a file is asked for keys
        lib.dkim_options(h, 1, 7, ctypes.addressof(path), ctypes.sizeof(path))
        stat = ctypes.c_int(-1)
        code = feed(lib, lib.dkim_verify(h, b"test", None, ctypes.addressof(stat)), msg)
        return "pass" if code == 0 else "code %d" % code


def opendkimsign(msg):
    lib = library()
    stat = ctypes.c_int(-1)
    canon = [{"simple": 0, "relaxed": 1}[c] for c in job["canon"].split("/")]
    d = lib.dkim_sign(
        lib.dkim_init(None, None), b"test", None, job["key"].encode(), job["selector"].encode(), job["domain"].encode(),
        canon[0], canon[1], 1, -1, ctypes.addressof(stat),
    )
    code = feed(lib, d, msg)
    buf = ctypes.create_string_buffer(4096)
    if code != 0 or lib.dkim_getsighdr(d, buf, len(buf), 16) != 0:
        return "code %d" % code
    return "DKIM-Signature: " + buf.value.decode().replace("\r\n", "\n").replace("\n", "\r\n") + "\r\n"


acts = {
    "verify": verify, "sign": sign, "arcsign": arcsign, "arcverify": arcverify,
    "opendkim": opendkim, "opendkimsign": opendkimsign,
}
answers = []
for job in json.load(sys.stdin):
    answers.append([acts[job["do"]](base64.b64decode(m)) for m in job["messages"]])
json.dump(answers, sys.stdout)
