package loader

import (
	"fmt"
	"math/bits"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// TestLayout compares the Go structs with BTF: size, and offset and size of each field.
func TestLayout(t *testing.T) {
	for object, load := range map[string]func() (*ebpf.CollectionSpec, error){"sock": loadSock, "pod": loadPod} {
		spec, err := load()
		if err != nil {
			t.Fatal(err)
		}
		for name, goType := range map[string]reflect.Type{
			"addr": reflect.TypeFor[address](), "config": reflect.TypeFor[config](),
			"counters": reflect.TypeFor[counters](), "service_key": reflect.TypeFor[serviceKey](),
			"service": reflect.TypeFor[service](), "service_stats": reflect.TypeFor[serviceStats](),
			"backend": reflect.TypeFor[backend](), "endpoint": reflect.TypeFor[endpoint](),
			"flow_key": reflect.TypeFor[sockFlowKey](), "flow": reflect.TypeFor[sockFlow](),
			"sock_key": reflect.TypeFor[sockSockKey](), "sock_origin": reflect.TypeFor[sockSockOrigin](),
			"sock_peer":   reflect.TypeFor[sockPeer](),
			"sock_choice": reflect.TypeFor[sockSockChoice](),
			"frag_key":    reflect.TypeFor[sockFragKey](), "frag": reflect.TypeFor[sockFrag](),
			"prefix_key": reflect.TypeFor[prefixKey](), "prefix": reflect.TypeFor[prefixEntry](),
			"subject": reflect.TypeFor[subject](), "policy_key": reflect.TypeFor[policyKey](),
			"policy": reflect.TypeFor[policyEntry](), "ruleset": reflect.TypeFor[rulesetEntry](),
			"port_node": reflect.TypeFor[portNode](), "outcome": reflect.TypeFor[outcome](),
			"number_key": reflect.TypeFor[numberKey](), "number": reflect.TypeFor[numberEntry](),
			"settings": reflect.TypeFor[settings](), "policy_stats": reflect.TypeFor[policyStats](),
		} {
			var s *btf.Struct
			if err := spec.Types.TypeByName(name, &s); err != nil {
				t.Errorf("%s: struct %s: %v", object, name, err)
				continue
			}
			compareLayout(t, object+" "+name, s, goType)
		}
	}
}

func compareLayout(t *testing.T, name string, c *btf.Struct, g reflect.Type) {
	t.Helper()
	if uintptr(c.Size) != g.Size() {
		t.Errorf("%s: %d bytes in C, %d in Go", name, c.Size, g.Size())
	}
	var fields []reflect.StructField
	for _, f := range reflect.VisibleFields(g) {
		if f.Name != "_" {
			fields = append(fields, f)
		}
	}
	if len(fields) != len(c.Members) {
		t.Errorf("%s: %d fields in C, %d in Go", name, len(c.Members), len(fields))
		return
	}
	for i, m := range c.Members {
		f := fields[i]
		size, err := btf.Sizeof(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		if snakeCase(f.Name) != m.Name || f.Offset != uintptr(m.Offset.Bytes()) || f.Type.Size() != uintptr(size) {
			t.Errorf("%s: %s at %d, %d bytes in C; %s at %d, %d bytes in Go", name,
				m.Name, m.Offset.Bytes(), size, f.Name, f.Offset, f.Type.Size())
		}
	}
}

// TestBackendWord checks that the word with state and epoch lies where it is stored.
func TestBackendWord(t *testing.T) {
	g := reflect.TypeFor[backend]()
	for name, want := range map[string]uintptr{"Port": 0, "Proto": 2, "State": 3, "Epoch": 4} {
		f, there := g.FieldByName(name)
		if !there || f.Offset != backendWordOffset+want {
			t.Errorf("%s is at %d, want %d", name, f.Offset, backendWordOffset+want)
		}
	}
	port, proto, state, epoch := splitBackendWord(backendWord(8080, 17, 1, 1<<31+5))
	if port != 8080 || proto != 17 || state != 1 || epoch != 1<<31+5 {
		t.Errorf("came back as %d %d %d %d", port, proto, state, epoch)
	}
}

// TestConstants compares constants that BTF does not carry with the header.
func TestConstants(t *testing.T) {
	header, err := os.ReadFile("../bpf/types.h")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]uint32{
		"BACKEND_FREE": backendFree, "BACKEND_ACTIVE": backendActive,
		"IDENTITY_NONE": identityNone, "IDENTITY_WORLD": identityWorld, "IDENTITY_NODE": identityNode,
		"IDENTITY_CLOSED": identityClosed, "IDENTITY_FIRST": identityFirst,
		"RULESET_OPEN": rulesetOpen, "RULESET_CLOSED": rulesetClosed, "RULESET_FIRST": rulesetFirst,
		"DIRECTION_INGRESS": directionIngress, "DIRECTION_EGRESS": directionEgress,
		"NUMBER_IDENTITY": numberIdentity, "NUMBER_NETWORK": numberNetwork, "NUMBER_POLICY": numberPolicy,
	} {
		m := regexp.MustCompile(name + ` = (\d+)`).FindSubmatch(header)
		if m == nil || string(m[1]) != fmt.Sprint(want) {
			t.Errorf("%s: %q in types.h, want %d", name, m, want)
		}
	}
	for name, want := range map[string]uint32{
		"OUTCOME_ALLOW": outcomeAllow, "OUTCOME_AUDIT": outcomeAudit, "OUTCOME_JOIN": outcomeJoin,
		"ENDPOINT_WATCHED": endpointWatched,
	} {
		m := regexp.MustCompile(name + ` = 1 << (\d+)`).FindSubmatch(header)
		if m == nil || string(m[1]) != fmt.Sprint(bits.TrailingZeros32(want)) {
			t.Errorf("%s: %q in types.h, want %#x", name, m, want)
		}
	}
	if want := fmt.Sprintf("#define LEAF %#xu", uint32(leaf)); !strings.Contains(string(header), want) {
		t.Errorf("types.h lacks %q", want)
	}
}

// TestMapSpecs: both objects mean the same maps, and every one has a size in Sizes or one entry.
func TestMapSpecs(t *testing.T) {
	sock, err := loadSock()
	if err != nil {
		t.Fatal(err)
	}
	pod, err := loadPod()
	if err != nil {
		t.Fatal(err)
	}
	a, b := pinnedSpecs(sock), pinnedSpecs(pod)
	sizes := DefaultSizes()
	for name, m := range a {
		if other := b[name]; other == nil || m.KeySize != other.KeySize || m.ValueSize != other.ValueSize ||
			m.Type != other.Type || m.Flags != other.Flags || m.MaxEntries != other.MaxEntries {
			t.Errorf("map %s: %v in sock, %v in pod", name, m, other)
		}
		if want, sized := sizes.byMap()[name]; m.MaxEntries != 1 && (!sized || want != m.MaxEntries) {
			t.Errorf("map %s: %d entries in maps.h, %d by default", name, m.MaxEntries, want)
		}
		if len(name) > 15 || strings.Contains(name, ".") {
			t.Errorf("map %s: the kernel cuts or refuses its name", name)
		}
	}
	if len(a) != len(b) {
		t.Errorf("%d maps in sock, %d in pod", len(a), len(b))
	}
}
