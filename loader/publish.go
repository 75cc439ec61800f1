package loader

import "net/netip"

// each calls write for each change and returns those for which it succeeded. The others stay dirty.
func (s *syncer) each(changes []*change, write func(*change) error) []*change {
	done := changes[:0]
	for _, c := range changes {
		if c.err == nil {
			c.err = write(c)
		}
		if c.err != nil {
			s.fail(c)
			continue
		}
		done = append(done, c)
	}
	return done
}

// fail gives up on a change that was not published. Backends that it may have written are made free
// again: no run leads to them.
func (s *syncer) fail(c *change) {
	s.dirty[c.frontend] = c.err
	if c.next == nil {
		return
	}
	added := c.added
	c.added = nil
	s.cancel(c)
	for _, m := range added {
		s.freeBackend(m.id, s.backendIDs.cancel)
	}
}

// freeBackend makes an entry free and then calls done with its id. When that fails, the id stays in
// use and is tried again in the next pass.
func (s *syncer) freeBackend(id uint32, done func(uint32)) {
	if err := s.tables.freeBackend(id); err != nil {
		s.unfreed = append(s.unfreed, id)
		return
	}
	done(id)
}

func (s *syncer) writeBackends(changes []*change) []*change {
	return s.each(changes, func(c *change) error {
		for _, m := range c.added {
			if err := s.tables.putBackend(m.id, c.next.toBackend(c.frontend, m)); err != nil {
				return err
			}
		}
		return s.turn(c, backendActive)
	})
}

// turn tells the members that begin or cease to drain, and are to have this state from now on, so. What
// is held of the frontend before and after the change both know of it, whichever comes to be.
func (s *syncer) turn(c *change, state uint8) error {
	for _, t := range c.turned {
		m := &c.next.members[t.next]
		if m.wanted() != state {
			continue
		}
		if err := s.tables.turnBackend(m.id, state); err != nil {
			return err
		}
		m.state, c.old.members[t.old].state = state, state
	}
	return nil
}

func (s *syncer) writeSlots(changes []*change) []*change {
	return s.each(changes, func(c *change) error {
		if c.newID() {
			// The id may have belonged to another service, whose counts are not this one's.
			if err := s.tables.resetStats(c.next.id); err != nil {
				return err
			}
		}
		if !c.newRun() {
			return nil
		}
		return s.tables.putSlots(c.next.run.first, c.slots)
	})
}

// mark writes the entry that says "this address is a VIP" for each VIP that has none yet. Of a shared
// address only the services' ports are theirs, so those ask for no mark. It comes
// before the VIP's first service: tc passes what is for no VIP untouched, and would otherwise do so
// with a packet for another port of this one.
func (s *syncer) mark(changes []*change) []*change {
	failed := map[netip.Addr]error{}
	var keys []serviceKey
	for _, c := range changes {
		if c.next.shared {
			continue
		}
		addr := c.frontend.Addr
		if s.vips[addr] == nil {
			s.vips[addr] = &vip{}
			s.unsettled[addr] = nil
		}
		if _, asked := failed[addr]; !asked && !s.vips[addr].marked {
			failed[addr] = nil
			keys = append(keys, markerKey(addr))
		}
	}
	s.putServices(keys, make([]service, len(keys)), func(i int, err error) {
		addr := fromAddress(keys[i].Addr)
		s.vips[addr].marked = err == nil
		failed[addr] = err
	})
	return s.each(changes, func(c *change) error {
		if c.next.shared {
			return nil
		}
		return failed[c.frontend.Addr]
	})
}

// publish writes the services. From here on programs choose among the new backends.
func (s *syncer) publish(changes []*change) []*change {
	var writes []*change
	for _, c := range changes {
		if c.entry {
			writes = append(writes, c)
		}
	}
	keys := make([]serviceKey, len(writes))
	values := make([]service, len(writes))
	for i, c := range writes {
		keys[i], values[i] = toKey(c.frontend), c.next.toService()
	}
	s.putServices(keys, values, func(i int, err error) { writes[i].err = err })
	return s.each(changes, func(c *change) error {
		s.count(c)
		s.held[c.frontend], s.byID[c.next.id] = c.next, c.frontend
		delete(s.dirty, c.frontend)
		return nil
	})
}

// count keeps the numbers of the frontends for which addresses are marked, and of what all take.
func (s *syncer) count(c *change) {
	addr := c.frontend.Addr
	was, is := c.old != nil && !c.old.shared, c.next != nil && !c.next.shared
	if was && !is {
		s.vips[addr].frontends--
		s.unsettled[addr] = nil
	}
	if is && !was {
		s.vips[addr].frontends++
	}
	s.use.change(c.old, c.next)
}

// putServices writes entries, all of them even if some fail, and tells the result of each.
func (s *syncer) putServices(keys []serviceKey, values []service, result func(i int, err error)) {
	for i := 0; i < len(keys); {
		n, err := s.tables.putServices(keys[i:], values[i:])
		for ; n > 0; n-- {
			result(i, nil)
			i++
		}
		if err != nil && i < len(keys) {
			result(i, err)
			i++
		}
	}
}

// withdraw deletes services that are not wanted any more.
func (s *syncer) withdraw(changes []*change) []*change {
	keys := make([]serviceKey, len(changes))
	for i, c := range changes {
		keys[i] = toKey(c.frontend)
	}
	for i := 0; i < len(keys); {
		n, err := s.tables.deleteServices(keys[i:])
		if i += n; err != nil && i < len(keys) {
			changes[i].err = err
			i++
		}
	}
	return s.each(changes, func(c *change) error {
		s.count(c)
		delete(s.held, c.frontend)
		delete(s.dirty, c.frontend)
		return nil
	})
}

// settleVIPs gives each VIP that has a service its mark, and takes it from those that have none left.
func (s *syncer) settleVIPs() {
	if len(s.unsettled) == 0 {
		return
	}
	for addr := range s.unsettled {
		v := s.vips[addr]
		key := []serviceKey{markerKey(addr)}
		var err error
		switch {
		case v == nil:
		case v.frontends == 0 && v.marked:
			_, err = s.tables.deleteServices(key)
		case v.frontends > 0 && !v.marked:
			_, err = s.tables.putServices(key, make([]service, 1))
		}
		if err != nil {
			s.unsettled[addr] = err
			continue
		}
		if v != nil && v.frontends == 0 {
			delete(s.vips, addr)
		} else if v != nil {
			v.marked = true
		}
		delete(s.unsettled, addr)
	}
	if len(s.unsettled) == 0 {
		s.unsettled = map[netip.Addr]error{} // the first snapshot's has room for every VIP
	}
}

// release lets go of what published changes left behind: no entry leads there any more.
func (s *syncer) release(changes []*change) {
	unfreed := s.unfreed
	s.unfreed = nil
	for _, id := range unfreed {
		s.freeBackend(id, s.backendIDs.free)
	}
	for _, c := range changes {
		for _, m := range c.removed {
			s.freeBackend(m.id, s.backendIDs.free)
			s.left(c.frontend, c.old.id, m)
		}
		if c.old == nil {
			continue
		}
		if err := s.turn(c, backendDraining); err != nil {
			s.dirty[c.frontend] = err
		}
		if c.old.run.count > 0 && (c.next == nil || c.next.run != c.old.run) {
			s.runs.free(c.old.run)
		}
		if c.old.id != 0 && (c.next == nil || c.newID()) {
			s.serviceIDs.free(c.old.id)
			delete(s.byID, c.old.id)
		}
	}
}
