package scale

import "net/netip"

// flow is one of up to 2^24 that lead from the client straight to a host elsewhere: 2^14 source ports each.
func flow(i int) (from, to netip.AddrPort) {
	host := i >> 14
	return netip.AddrPortFrom(clientAddr, uint16(1<<14+i&(1<<14-1))),
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18, byte(host >> 8), byte(host)}), servicePort)
}

// Fill begins flows from one number up to another, and tells how many entries the map of flows then has.
func (w *World) Fill(to int, entries *uint64) error {
	for i := w.wired; i < to; i++ {
		if _, err := w.probe.Time(w.probe.SYN(flow(i)), 1); err != nil {
			return err
		}
	}
	w.wired = to
	list, err := w.loader.Maps()
	for _, m := range list {
		if m.Name == "flows" {
			*entries = m.Entries
		}
	}
	return err
}
