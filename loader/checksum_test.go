package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
)

// onesSum is the one's complement sum of 16-bit words (RFC 1071), plain and slow.
func onesSum(start uint32, b []byte) uint16 {
	sum := uint64(start)
	for i := 0; i < len(b); i += 2 {
		w := uint16(b[i]) << 8
		if i+1 < len(b) {
			w |= uint16(b[i+1])
		}
		sum += uint64(w)
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// pseudoSum is the sum of a pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
func pseudoSum(src, dst netip.Addr, proto uint8, length int) uint32 {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	b = append(b, 0, 0, 0, proto)
	return uint32(onesSum(0, b))
}

// errNotChecked says that a packet has no checksum that could be verified.
var errNotChecked = errors.New("no checksum to verify")

// wrongSum says what a packet's transport, with its checksum and pseudo-header, sums to.
type wrongSum struct {
	proto uint8
	sum   uint16
}

func (e *wrongSum) Error() string {
	return fmt.Sprintf("protocol %d sums to %#04x", e.proto, e.sum)
}

// verifyChecksums checks the IPv4 header's checksum and the transport's, from the bytes alone. It
// returns errNotChecked when the packet is no whole IP packet of a protocol that has one.
func verifyChecksums(b []byte) error {
	if len(b) < 14+20 {
		return errNotChecked
	}
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherIPv4:
		return verifyIPv4(b[14:])
	case etherIPv6:
		return verifyIPv6(b[14:])
	}
	return errNotChecked
}

func verifyIPv4(b []byte) error {
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 != 4 || header < 20 || total < header || total > len(b) {
		return errNotChecked
	}
	if s := onesSum(0, b[:header]); s != 0xffff {
		return fmt.Errorf("IPv4 header sums to %#04x", s)
	}
	if binary.BigEndian.Uint16(b[6:])&0x3fff != 0 {
		return errNotChecked
	}
	src, dst := netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	return verifyTransport(b[9], src, dst, b[header:total])
}

func verifyIPv6(b []byte) error {
	if len(b) < 40 || b[0]>>4 != 6 {
		return errNotChecked
	}
	end := 40 + int(binary.BigEndian.Uint16(b[4:]))
	if end > len(b) {
		return errNotChecked
	}
	src, dst := netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	next, at := b[6], 40
	for {
		switch next {
		case 0, 43, 60, 135, 51, 44:
		default:
			return verifyTransport(next, src, dst, b[at:end])
		}
		if at+8 > end {
			return errNotChecked
		}
		size := (int(b[at+1]) + 1) * 8
		switch next {
		case 51:
			size = (int(b[at+1]) + 2) * 4
		case 44:
			if binary.BigEndian.Uint16(b[at+2:])&0xfff9 != 0 {
				return errNotChecked
			}
			size = 8
		}
		next = b[at]
		if at += size; at > end {
			return errNotChecked
		}
	}
}

func verifyTransport(proto uint8, src, dst netip.Addr, b []byte) error {
	sum, least := pseudoSum(src, dst, proto, len(b)), 20
	switch proto {
	case protoTCP, protoICMPv6:
		if proto == protoICMPv6 {
			least = 4
		}
	case protoUDP:
		if len(b) < 8 || b[6] == 0 && b[7] == 0 {
			return errNotChecked
		}
		// What counts is UDP's own length.
		n := int(binary.BigEndian.Uint16(b[4:]))
		if n < 8 || n > len(b) {
			return errNotChecked
		}
		b, least = b[:n], 8
		sum = pseudoSum(src, dst, proto, n)
	case protoICMP:
		sum, least = 0, 4
	case protoSCTP:
		return verifySCTP(b)
	default:
		return nil
	}
	if len(b) < least {
		return errNotChecked
	}
	if s := onesSum(sum, b); s != 0xffff {
		return &wrongSum{proto: proto, sum: s}
	}
	return nil
}

func verifySCTP(b []byte) error {
	if len(b) < 12 {
		return errNotChecked
	}
	want := binary.LittleEndian.Uint32(b[8:])
	if want == 0 {
		return errNotChecked
	}
	zeroed := append([]byte{}, b...)
	clear(zeroed[8:12])
	if got := crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)); got != want {
		return fmt.Errorf("SCTP checksum is %#08x, want %#08x", want, got)
	}
	return nil
}
