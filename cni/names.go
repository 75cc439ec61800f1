package cni

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

const (
	hostPrefix = "sl" // of every host interface's name
	hostDigits = 13   // hexadecimal; the prefix and they make IFNAMSIZ-1
)

// HostInterface returns the name of the host side of a container's veth. It follows from the
// container and the interface alone, so that a DEL finds it without a record.
func HostInterface(id AttachmentID) string {
	sum := sha256.Sum256([]byte(id.String()))
	return hostPrefix + hex.EncodeToString(sum[:])[:hostDigits]
}

// IsHostInterface tells whether a name has the form that HostInterface gives.
func IsHostInterface(name string) bool {
	digits, ok := strings.CutPrefix(name, hostPrefix)
	if !ok || len(digits) != hostDigits {
		return false
	}
	return strings.Trim(digits, "0123456789abcdef") == ""
}

// DefaultMAC returns the MAC of the container's side when none was asked for: a locally
// administered one that follows from the container and the interface.
func DefaultMAC(id AttachmentID) net.HardwareAddr {
	sum := sha256.Sum256([]byte("mac " + id.String()))
	// x2, x6, xa and xe mark local addresses; e leaves the gateway's 02 alone.
	return net.HardwareAddr{0x0e, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// ParseMAC reads the MAC of a container's interface: six bytes, of one station, not all zero and not
// the gateway's.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil, fmt.Errorf("%q is no 6-byte MAC address", s)
	}
	if mac[0]&1 != 0 {
		return nil, fmt.Errorf("%q is a group address, not one station's", s)
	}
	if bytes.Equal(mac, make([]byte, 6)) {
		return nil, fmt.Errorf("%q is the zero address", s)
	}
	if bytes.Equal(mac, gatewayMAC()) {
		return nil, fmt.Errorf("%q belongs to the gateway", s)
	}
	return mac, nil
}

func gatewayMAC() net.HardwareAddr { return net.HardwareAddr{0x02, 0x53, 0x6c, 0x75, 0x63, 0x65} }

// gatewayOf returns the gateway of an address's family.
func gatewayOf(a netip.Addr) netip.Addr {
	if a.Is4() {
		return netip.MustParseAddr(GatewayV4)
	}
	return netip.MustParseAddr(GatewayV6)
}
