package eureka

import (
	"encoding/hex"
	"hash/fnv"
	"strings"
)

// maxLabel is how long a DNS label may be (RFC 1035, 2.3.4).
const maxLabel = 63

// serviceName returns the service that an application's instances belong to: its name in lower case, with a hyphen
// for everything that a DNS label cannot hold. One that would be too long, or nothing, ends in a hash of it. Applications
// of one service are told apart by what is recorded of each instance.
func serviceName(app string) string {
	b := []byte(strings.ToLower(app))
	for at, c := range b {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			b[at] = '-'
		}
	}
	name := strings.Trim(string(b), "-")
	if name != "" && len(name) <= maxLabel {
		return name
	}
	h := fnv.New32a()
	h.Write([]byte(strings.ToUpper(app)))
	sum := hex.EncodeToString(h.Sum(nil))
	if name == "" {
		return "app-" + sum
	}
	return strings.TrimRight(name[:maxLabel-len(sum)-1], "-") + "-" + sum
}
