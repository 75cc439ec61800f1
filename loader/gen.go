// Package loader owns everything of Sluice that lives in the kernel: it loads the programs, attaches
// them to the cgroup and to the containers' interfaces, pins it all under one bpffs directory, and
// keeps the maps equal to what the registry says. It is the only package that knows map bytes.
//
// What it leaves in the kernel works without it: a killed agent's successor opens the same pins,
// replaces the programs in place and goes on from the maps as they are.
package loader

// The objects are committed, so that building takes no clang. They are the same wherever they are made:
// bpf2go maps the source directory away, and of the two directories where Debian files the headers of
// a machine's kernel, <asm/types.h> is the same.

//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel sock ../bpf/sock.c -- -O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
//go:generate go run github.com/cilium/ebpf/cmd/bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -no-global-types -type event pod ../bpf/pod.c -- -O2 -g -Wall -Werror -mcpu=v3 -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu
