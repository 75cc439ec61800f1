package loader

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// isolationTables is what isolation writes to. Of several entries some may be written when one fails;
// none is atomic across entries. Errors wrap ErrFull when a map has no room.
type isolationTables interface {
	putNumber(numberKey, numberEntry) error
	deleteNumber(numberKey) error
	// putOutcome, putNode and putRuleset write what nothing leads to yet.
	putOutcome(id uint32, o outcome) error
	putNode(id uint32, n *portNode) error
	putRuleset(id uint32, r rulesetEntry) error
	// resetPolicyStats zeroes the counts of a policy's number.
	resetPolicyStats(id uint32) error
	// putPolicies and deletePolicies return how many entries they did, from the first on. The error
	// is about the next one. An entry that is not there counts as deleted.
	putPolicies(keys []policyKey, values []policyEntry) (int, error)
	deletePolicies(keys []policyKey) (int, error)
	// setSubject is one store to memory: it cannot fail.
	setSubject(identity, direction, ruleset uint32)
	// raiseGeneration has every program that is judging a flow judge it again: none that saw what was
	// before goes by what is written from here on as well.
	raiseGeneration()
	putPrefix(prefixKey, prefixEntry) error
	deletePrefix(prefixKey) error
	// putTag switches a wired address to another identity and network, in one step.
	putTag(netip.Addr, tag) error
	// raise makes the flows of whoever has these addresses be decided anew.
	raise([]netip.Addr)
	// wait returns when every program that runs now is over.
	wait() error
}

// tag is what map endpoints says about isolation of one address.
type tag struct{ identity, network uint32 }

// isolationMemory is the array maps, as memory.
type isolationMemory struct{ subjects, rulesets, nodes, outcomes, settings *memory }

func (m *isolationMemory) subject(identity uint32) subject {
	return subject{Ingress: m.subjects.load32(identity, 0), Egress: m.subjects.load32(identity, 4)}
}

func (m *isolationMemory) close() {
	for _, mem := range []*memory{m.subjects, m.rulesets, m.nodes, m.outcomes, m.settings} {
		mem.close()
	}
}

// forget is each memory's forget.
func (m *isolationMemory) forget() {
	for _, mem := range []*memory{m.subjects, m.rulesets, m.nodes, m.outcomes, m.settings} {
		mem.forget()
	}
}

func (m *isolationMemory) putOutcome(id uint32, o outcome) error {
	*(*outcome)(m.outcomes.at(id, 0)) = o
	return nil
}

func (m *isolationMemory) putNode(id uint32, n *portNode) error {
	*(*portNode)(m.nodes.at(id, 0)) = *n
	return nil
}

func (m *isolationMemory) putRuleset(id uint32, r rulesetEntry) error {
	*(*rulesetEntry)(m.rulesets.at(id, 0)) = r
	return nil
}

func (m *isolationMemory) setSubject(identity, direction, ruleset uint32) {
	m.subjects.store32(identity, uintptr(direction)*4, ruleset)
}

func (m *isolationMemory) raiseGeneration() {
	m.settings.raise(0, unsafe.Offsetof(settings{}.Generation))
}

// kernelIsolation is the real maps.
type kernelIsolation struct {
	isolationMemory
	numbers, policy, prefixes, stats *ebpf.Map
	endpoints                        *endpointTable
	zeros                            []policyStats // one for each possible CPU
}

func newKernelIsolation(m *mapSet) (_ *kernelIsolation, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count possible CPUs: %w", err)
	}
	t := &kernelIsolation{
		numbers: m.get(sockMapNumbers), policy: m.get(sockMapPolicy), prefixes: m.get(sockMapPrefixes),
		stats: m.get(sockMapPolicyStats), zeros: make([]policyStats, cpus),
	}
	for name, mem := range map[string]**memory{
		sockMapSubjects: &t.subjects, sockMapRulesets: &t.rulesets,
		sockMapPortNodes: &t.nodes, sockMapOutcomes: &t.outcomes, sockMapSettings: &t.settings,
	} {
		if *mem, err = mapMemory(m.get(name), unix.PROT_READ|unix.PROT_WRITE); err != nil {
			t.close()
			return nil, err
		}
	}
	return t, nil
}

func (t *kernelIsolation) close() {
	if t != nil {
		t.isolationMemory.close()
	}
}

func (t *kernelIsolation) wait() error { return waitForPrograms() }

// full says so of a map that has no room: hashes answer E2BIG, tries ENOSPC.
func full(m *ebpf.Map, err error) error {
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("all %d entries are in use: %w", m.MaxEntries(), ErrFull)
	}
	return err
}

// absent makes a deletion of what is not there a success.
func absent(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}

func (t *kernelIsolation) putNumber(k numberKey, v numberEntry) error {
	if err := t.numbers.Put(&k, &v); err != nil {
		return fmt.Errorf("write number %d to map numbers: %w", v.Number, full(t.numbers, err))
	}
	return nil
}

func (t *kernelIsolation) deleteNumber(k numberKey) error {
	if err := absent(t.numbers.Delete(&k)); err != nil {
		return fmt.Errorf("delete from map numbers: %w", err)
	}
	return nil
}

func (t *kernelIsolation) resetPolicyStats(id uint32) error {
	if err := t.stats.Put(&id, t.zeros); err != nil {
		return fmt.Errorf("reset entry %d of map policy_stats: %w", id, err)
	}
	return nil
}

func (t *kernelIsolation) putPolicies(keys []policyKey, values []policyEntry) (int, error) {
	n := 0
	if len(keys) > 1 {
		done, err := t.policy.BatchUpdate(keys, values, nil)
		if err == nil {
			return len(keys), nil
		}
		// The one that failed is done again below: its own error tells more than the batch's.
		n = min(max(done, 0), len(keys))
	}
	for ; n < len(keys); n++ {
		if err := t.policy.Put(&keys[n], &values[n]); err != nil {
			return n, fmt.Errorf("write to map policy: %w", full(t.policy, err))
		}
	}
	return n, nil
}

func (t *kernelIsolation) deletePolicies(keys []policyKey) (int, error) {
	n := 0
	if len(keys) > 1 {
		done, err := t.policy.BatchDelete(keys, nil)
		if err == nil {
			return len(keys), nil
		}
		n = min(max(done, 0), len(keys))
	}
	for ; n < len(keys); n++ {
		if err := absent(t.policy.Delete(&keys[n])); err != nil {
			return n, fmt.Errorf("delete from map policy: %w", err)
		}
	}
	return n, nil
}

func (t *kernelIsolation) putPrefix(k prefixKey, v prefixEntry) error {
	if err := t.prefixes.Put(&k, &v); err != nil {
		return fmt.Errorf("write %s to map prefixes: %w", fromPrefixKey(k), full(t.prefixes, err))
	}
	return nil
}

func (t *kernelIsolation) deletePrefix(k prefixKey) error {
	if err := absent(t.prefixes.Delete(&k)); err != nil {
		return fmt.Errorf("delete %s from map prefixes: %w", fromPrefixKey(k), err)
	}
	return nil
}

func (t *kernelIsolation) putTag(a netip.Addr, v tag) error { return t.endpoints.putTag(a, v) }

func (t *kernelIsolation) raise(addrs []netip.Addr) { t.endpoints.raise(addrs) }
