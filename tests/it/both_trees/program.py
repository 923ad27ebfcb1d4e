# A program in the mount, told line by line what to do.
import ctypes, errno, json, mmap, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
LONGEST, page = int(sys.argv[1]), mmap.mmap(-1, int(sys.argv[1]))
held, listing, there = {}, None, {}

class Held:
    def __init__(self, path):
        self.file = os.open(path, os.O_RDWR)
        self.append = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        self.map = libc.mmap(None, LONGEST, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, self.file, 0)
        assert self.map != ctypes.c_void_p(-1).value
    def close(self):
        libc.munmap(self.map, LONGEST)
        for fd in self.file, self.append, self.direct:
            os.close(fd)
    def look(self):
        is_ = os.fstat(self.file)
        size = is_.st_size
        direct = os.preadv(self.direct, [page], 0)
        return dict(size=size, nlink=is_.st_nlink, mtime=is_.st_mtime_ns, ctime=is_.st_ctime_ns,
            mapped=ctypes.string_at(self.map, size).hex(), read=os.pread(self.file, LONGEST, 0).hex(), direct=page[:direct].hex())

def getdents(fd, room):
    buffer = ctypes.create_string_buffer(room)
    length = libc.syscall(217 if os.uname().machine == 'x86_64' else 61, fd, buffer, room)
    # A directory that is removed has nothing in it, and says so.
    assert length >= 0 or ctypes.get_errno() == errno.ENOENT, ctypes.get_errno()
    names, at = [], 0
    while at < length:
        step = int.from_bytes(buffer.raw[at + 16:at + 18], 'little')
        names.append(buffer.raw[at + 19:at + step].split(b'\0')[0].decode())
        at += step
    return names

def act(op, key=None, path=None, at=None, data=None, size=None):
    global listing
    one = held.get(key)
    data = data and bytes.fromhex(data)
    if op == 'hold': held[key] = Held(path)
    elif op == 'drop': held.pop(key).close()
    elif op == 'write': assert os.pwrite(one.file, data, at) == len(data)
    elif op == 'append': assert os.write(one.append, data) == len(data)
    elif op == 'store': ctypes.memmove(one.map + at, data, len(data))
    elif op == 'truncate': os.ftruncate(one.file, size)
    elif op == 'punch':
        if libc.fallocate(one.file, 3, at, size): raise OSError(ctypes.get_errno(), 'punch')
    elif op == 'sync': os.fsync(one.file)
    elif op == 'look': return one.look()
    elif op == 'enter': os.chdir(path)
    elif op == 'where':
        try: where = os.getcwd()
        except FileNotFoundError: where = None
        return dict(where=where, ino=os.stat('.').st_ino, nlink=os.stat('.').st_nlink, names=sorted(os.listdir('.')))
    elif op == 'stay':
        there[key] = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    elif op == 'leave': os.close(there.pop(key))
    elif op == 'inside':
        return dict(names=sorted(os.listdir(there[key])), nlink=os.fstat(there[key]).st_nlink)
    elif op == 'list': listing = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    elif op == 'next': return dict(names=getdents(listing, 64))
    elif op == 'listed': os.close(listing)
    return {}

for line in sys.stdin:
    try: said = act(**json.loads(line))
    except Exception as error: said = dict(error=repr(error))
    print(json.dumps(said), flush=True)
