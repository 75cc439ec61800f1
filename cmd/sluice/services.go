package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/sluice-net/sluice/registry"
	"github.com/sluice-net/sluice/registry/api"
)

func (c *cli) getServices(ctx context.Context, client *api.Client, s scope) error {
	if !c.output.isTable() {
		return c.getKubernetes(ctx, client, s)
	}
	all, err := client.Services(ctx, s.where())
	if err != nil {
		return err
	}
	items := slices.DeleteFunc(all, func(v api.Service) bool { return !s.wants(v.Name) })
	if err := s.found("service", len(items)); err != nil {
		return err
	}
	return c.print(nil, func(w io.Writer) {
		heads := []string{"NAME", "TYPE", "VIPS", "EXTERNAL", "PORTS", "BACKENDS", "AFFINITY"}
		if c.output == wide {
			heads = append(heads, "ALGORITHM", "TRAFFIC", "ENDPOINTS", "SELECTOR")
		}
		row(w, s.columns(heads...)...)
		for _, v := range items {
			cells := []string{serviceType(v.Type), vips(&v), external(&v), ports(v.Ports), backends(&v), affinity(&v)}
			if c.output == wide {
				cells = append(cells, string(v.Algorithm), traffic(&v), strconv.Itoa(v.Endpoints), labels(v.Selector))
			}
			row(w, s.cells(v.Name, cells...)...)
		}
	})
}

func serviceType(t registry.ServiceType) string {
	if t == registry.TypeClusterIP {
		return "ClusterIP"
	}
	return string(t)
}

func vips(v *api.Service) string {
	if v.Headless {
		return "None"
	}
	return list(v.VIPs)
}

// external is how a service is reached beside its VIPs, or the name that it stands for.
func external(v *api.Service) string {
	if v.ExternalName != "" {
		return v.ExternalName
	}
	return list(slices.Concat(v.ExternalIPs, v.LoadBalancerIPs))
}

// ports writes 80->8080/TCP, or 80/TCP when both are equal; with a node port 80:30080->8080/TCP.
func ports(all []api.Port) string {
	text := make([]string, len(all))
	for i, p := range all {
		from := strconv.Itoa(int(p.Port))
		if p.NodePort != 0 {
			from += ":" + strconv.Itoa(int(p.NodePort))
		}
		switch {
		case p.TargetName != "":
			text[i] = fmt.Sprintf("%s->%s/%s", from, p.TargetName, p.Protocol)
		case p.TargetPort != p.Port:
			text[i] = fmt.Sprintf("%s->%d/%s", from, p.TargetPort, p.Protocol)
		default:
			text[i] = fmt.Sprintf("%s/%s", from, p.Protocol)
		}
	}
	return strings.Join(text, ",")
}

// backends counts the addresses that take new flows at any port, and those that only drain: of the IP family that has
// more, as most have one of each. Behind a service without a VIP stands whatever it selects and its slices list.
func backends(v *api.Service) string {
	if len(v.VIPs) == 0 {
		if v.Type == registry.TypeExternalName {
			return ""
		}
		return strconv.Itoa(v.Endpoints)
	}
	active, draining := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, p := range v.Ports {
		for _, b := range p.Backends {
			if b.Draining {
				draining[b.Address.Addr()] = true
			} else {
				active[b.Address.Addr()] = true
			}
		}
	}
	for a := range active {
		delete(draining, a)
	}
	text := strconv.Itoa(ofOneFamily(active))
	if n := ofOneFamily(draining); n > 0 {
		text += fmt.Sprintf(" (+%d draining)", n)
	}
	return text
}

func ofOneFamily(set map[netip.Addr]bool) int {
	four := 0
	for a := range set {
		if a.Is4() {
			four++
		}
	}
	return max(four, len(set)-four)
}

func affinity(v *api.Service) string {
	if v.AffinityTimeout == 0 {
		return "None"
	}
	return fmt.Sprintf("ClientIP %ds", v.AffinityTimeout)
}

// traffic names the policies that are not the default ones.
func traffic(v *api.Service) string {
	var words []string
	if v.InternalLocal {
		words = append(words, "internal=Local")
	}
	if v.ExternalLocal {
		words = append(words, "external=Local")
	}
	if v.Distribution != registry.DistributeEvenly {
		words = append(words, string(v.Distribution))
	}
	if v.PublishNotReady {
		words = append(words, "unready too")
	}
	return strings.Join(words, ",")
}
