"""All tasks of a dump with their stacks, by drgn: DUMP VMLINUX. Prints how many of tasks, stacks and calls."""

import mmap, sys, drgn
from drgn.helpers.linux.pid import for_each_task

dump, debug = sys.argv[1:]
with open(dump, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as ram:
    # QEMU has no note of the kernel's where nobody gave the guest a device for it.
    note, at = b"", -1
    while b"SYMBOL(init_uts_ns)" not in note:
        at = ram.find(b"OSRELEASE=", at + 1)
        if at < 0:
            sys.exit("the dump has no note of the kernel's")
        note = ram[at : at + 4096].split(b"\0")[0]
program = drgn.Program(vmcoreinfo=note)
program.set_core_dump(dump)
program.load_debug_info([debug])
tasks = stacks = frames = 0
for task in for_each_task(program):
    tasks += 1
    try:
        stack = [frame.name for frame in program.stack_trace(task)]
    except (ValueError, LookupError):
        continue
    stacks += bool(stack)
    frames += len(stack)
print(tasks, stacks, frames, drgn.__version__)
