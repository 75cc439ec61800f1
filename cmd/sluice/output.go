package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"sigs.k8s.io/yaml"

	"github.com/sluice-net/sluice/registry/api"
)

// format is the value of --output.
type format string

const (
	table  format = "table"
	wide   format = "wide" // a table with what makes it wide
	inJSON format = "json"
	inYAML format = "yaml"
)

func (f format) isTable() bool { return f == table || f == wide }

// String implements pflag.Value.
func (f *format) String() string { return string(*f) }

// Type implements pflag.Value.
func (f *format) Type() string { return "format" }

// Set implements pflag.Value.
func (f *format) Set(s string) error {
	switch format(s) {
	case table, wide, inJSON, inYAML:
		*f = format(s)
		return nil
	}
	return fmt.Errorf("want table, wide, json or yaml")
}

// print writes v, or with -o table and wide what asTable writes.
func (c *cli) print(v any, asTable func(io.Writer)) error {
	switch c.output {
	case inJSON:
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		_, err = fmt.Fprintf(c.stdout, "%s\n", b)
		return err
	case inYAML:
		b, err := json.Marshal(v)
		if err == nil {
			b, err = yaml.JSONToYAML(b)
		}
		if err != nil {
			return fmt.Errorf("encode output: %w", err)
		}
		_, err = c.stdout.Write(b)
		return err
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 3, ' ', 0)
	asTable(w)
	return w.Flush()
}

// row writes one line of a table.
func row(w io.Writer, cells ...string) {
	for i, cell := range cells {
		if cell == "" {
			cells[i] = "-"
		}
	}
	fmt.Fprintln(w, strings.Join(cells, "\t"))
}

// list joins anything that prints itself.
func list[T any](items []T) string {
	text := make([]string, len(items))
	for i, v := range items {
		text[i] = fmt.Sprint(v)
	}
	return strings.Join(text, ",")
}

// labels writes k=v,k=v in order.
func labels(set map[string]string) string {
	text := make([]string, 0, len(set))
	for _, k := range slices.Sorted(maps.Keys(set)) {
		text = append(text, k+"="+set[k])
	}
	return strings.Join(text, ",")
}

// bytesText writes a size as people read it.
func bytesText(n uint64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return strconv.FormatUint(n, 10) + " B"
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}

// results writes what became of some objects, and fails when the node does not yet act on it.
func (c *cli) results(r api.Results) error {
	err := c.print(r, func(w io.Writer) {
		for _, o := range r.Results {
			line := fmt.Sprintf("%s %s\t%s", strings.ToLower(o.Kind), o.Name, o.Action)
			switch {
			case len(o.VIPs) > 0:
				line += "\t" + list(o.VIPs)
			case o.Instance != nil:
				line += "\t" + string(o.Instance.Effective())
			case len(o.Conditions) > 0:
				line += "\t" + strings.Join(o.Conditions, ",")
			case o.Labels != nil:
				line += "\t" + labels(o.Labels)
			}
			fmt.Fprintln(w, line)
		}
	})
	if err == nil && !r.Synced {
		return fmt.Errorf("%s", r.Warning)
	}
	return err
}
