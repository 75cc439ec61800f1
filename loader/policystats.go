package loader

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sluice-net/sluice/registry"
)

// PolicyStats counts the new flows that one policy decided, and single packets of protocols without flows, each
// by registry.Direction.
type PolicyStats struct {
	Policy  registry.PolicyID
	Allowed [2]uint64
	Denied  [2]uint64
	Audited [2]uint64 // allowed in audit mode only
}

// policyNumbers returns the numbers of the policies that have one.
func (l *Loader) policyNumbers() []uint32 {
	l.wireMu.Lock()
	defer l.wireMu.Unlock()
	return slices.Collect(maps.Keys(l.isolation.rulesets.names))
}

// PolicyStats returns the counts of every policy that has decided something. The order is none. Only the
// entries of policies that there are are read: the map has room for many more.
func (l *Loader) PolicyStats() ([]PolicyStats, error) {
	var stats []PolicyStats
	perCPU := []policyStats(nil)
	for chunk := range slices.Chunk(l.policyNumbers(), statsChunk) {
		err := l.locked(func() error {
			for _, number := range chunk {
				// Should the policy go meanwhile, its number rests for far longer than this takes.
				if err := l.maps.get(sockMapPolicyStats).Lookup(number, &perCPU); err != nil {
					return fmt.Errorf("read entry %d of map policy_stats: %w", number, err)
				}
				id, known := l.PolicyName(number)
				if s := sumPolicyStats(id, perCPU); known && s != (PolicyStats{Policy: id}) {
					stats = append(stats, s)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return stats, nil
}

func sumPolicyStats(id registry.PolicyID, perCPU []policyStats) PolicyStats {
	s := PolicyStats{Policy: id}
	for _, c := range perCPU {
		for d := range 2 {
			s.Allowed[d] += c.Allowed[d]
			s.Denied[d] += c.Denied[d]
			s.Audited[d] += c.Audited[d]
		}
	}
	return s
}
