package loader

import "fmt"

// pinAffinity gives the entries of affinity times that follow from the seed: a backend that is chosen when one
// has expired follows from that. They are in the future until they have expired.
func (m *modelRig) pinAffinity() {
	for client, a := range m.model.affinity {
		said := uint64(1<<62 + a.seen/modelSecond)
		for _, e := range m.entries {
			if e.id == client.service && e.affinity > 0 && m.model.now >= a.seen+e.affinity*modelSecond {
				said = uint64(1 + a.seen/modelSecond)
			}
		}
		if said != a.said {
			a.said = said
			m.put("affinity", affinityKeyOf(client), affinity{Seen: said, Backend: a.backend, Epoch: a.epoch})
		}
	}
}

func affinityKeyOf(c modelClient) affinityKey {
	return affinityKey{Client: address{Bytes: c.addr}, Service: c.service}
}

// compareAffinity looks at what the programs have written for a client, and pins it.
func (m *modelRig) compareAffinity() error {
	for client, a := range m.model.affinity {
		var got affinity
		if err := m.coll.Maps["affinity"].Lookup(affinityKeyOf(client), &got); err != nil {
			return fmt.Errorf("look up %v in affinity: %w", client, err)
		}
		if got.Backend != a.backend || got.Epoch != a.epoch || a.said != 0 && got.Seen != a.said ||
			a.said == 0 && (got.Seen < m.beganAt || got.Seen > monotonic()) {
			return fmt.Errorf("affinity of %v is %+v, want %+v", client, got, *a)
		}
	}
	m.pinAffinity()
	return nil
}
