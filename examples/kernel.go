// Four TCP ports of one's own and a server on one of them, by socket options alone.
//
//	go run examples/kernel.go
//
// Needs the kernel engine (portkeep load), and no privilege.
package main

import (
	"fmt"
	"syscall"
	"unsafe"
)

const (
	solPortkeep = 0x504B
	acquire     = 1
	associate   = 2
	release     = 3
	instance    = 4
)

type block struct {
	start [2]byte // big-endian; 0 in a request: anywhere in the pool
	count uint16
	_     uint32
	token [8]byte
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	anchor, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	mine, size := block{count: 4}, uint32(unsafe.Sizeof(block{}))
	request := string(unsafe.Slice((*byte)(unsafe.Pointer(&mine)), 4))
	check(syscall.SetsockoptString(anchor, solPortkeep, acquire, request))
	_, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, uintptr(anchor), solPortkeep, instance,
		uintptr(unsafe.Pointer(&mine)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		panic(errno)
	}
	server, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	check(err)
	check(syscall.SetsockoptString(server, solPortkeep, associate, string(mine.token[:])))
	check(syscall.Bind(server, &syscall.SockaddrInet4{}))
	address, err := syscall.Getsockname(server)
	check(err)
	start := int(mine.start[0])<<8 | int(mine.start[1])
	fmt.Printf("%d of %d+%d\n", address.(*syscall.SockaddrInet4).Port, start, mine.count)
	fmt.Scanln() // until Enter; then, or when the process ends, the ports are free again
	check(syscall.SetsockoptString(anchor, solPortkeep, release, string(mine.token[:])))
}
