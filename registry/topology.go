package registry

import "slices"

// topologyIndex finds the services whose choice depends on the zone of a node: those that prefer what is near.
type topologyIndex struct {
	services map[*catalogService]struct{}            // all of them
	byNode   map[string]map[*catalogService]struct{} // with members there that take the node's zone
}

func newTopologyIndex() topologyIndex {
	return topologyIndex{
		services: map[*catalogService]struct{}{},
		byNode:   map[string]map[*catalogService]struct{}{},
	}
}

func (x *topologyIndex) addService(s *catalogService) {
	if s.prefers() {
		x.services[s] = struct{}{}
		s.onNodes = map[string]int{}
	}
}

func (x *topologyIndex) removeService(s *catalogService) {
	delete(x.services, s)
	for node := range s.onNodes {
		drop(x.byNode, node, s)
	}
}

func (x *topologyIndex) join(s *catalogService, m *member) {
	if s.onNodes == nil || m.zone() != "" {
		return
	}
	node := m.node()
	if s.onNodes[node]++; s.onNodes[node] == 1 {
		put(x.byNode, node, s)
	}
}

func (x *topologyIndex) leave(s *catalogService, m *member) {
	if s.onNodes == nil || m.zone() != "" {
		return
	}
	node := m.node()
	if s.onNodes[node]--; s.onNodes[node] == 0 {
		delete(s.onNodes, node)
		drop(x.byNode, node, s)
	}
}

// applyNode follows a node: its zone matters to services that prefer what is near, the own node's addresses to
// those that have node ports.
func (c *Catalog) applyNode(n *Node, deleted bool) {
	old := c.nodes[n.Name]
	var now Node
	if deleted {
		delete(c.nodes, n.Name)
	} else {
		now = *n
		c.nodes[n.Name] = now
	}
	own := n.Name == c.node && c.node != ""
	if old.Zone != now.Zone {
		concerned := c.topology.byNode[n.Name]
		if own {
			concerned = c.topology.services
		}
		for s := range concerned {
			c.touch(s)
		}
	}
	if own && !slices.Equal(old.Addresses, now.Addresses) {
		for s := range c.nodePorts {
			c.claimNodePorts(s)
		}
	}
}

// own returns the catalog's own node as the registry has it, which may be not at all.
func (c *Catalog) own() Node {
	if c.node == "" {
		return Node{}
	}
	return c.nodes[c.node]
}

func put[K, V comparable](index map[K]map[V]struct{}, k K, v V) {
	set := index[k]
	if set == nil {
		set = map[V]struct{}{}
		index[k] = set
	}
	set[v] = struct{}{}
}

func drop[K, V comparable](index map[K]map[V]struct{}, k K, v V) {
	delete(index[k], v)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}
