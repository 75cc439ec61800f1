package main

import (
	"bytes"
	"compress/gzip"
	"testing"
	"testing/fstest"

	"github.com/sluice-net/sluice/tests/bench/sheet"
)

func zipped(t *testing.T, text string) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestMachine(t *testing.T) {
	const vulnerable = "sys/devices/system/cpu/vulnerabilities/"
	for name, tt := range map[string]struct {
		root fstest.MapFS
		want map[string]string
	}{
		"all is told": {fstest.MapFS{
			"proc/cpuinfo": {Data: []byte("processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu hypervisor lahf_lm\n" +
				"processor\t: 1\nmodel name\t: other\n")},
			"proc/meminfo":                      {Data: []byte("MemTotal:       16777216 kB\nMemFree: 1 kB\n")},
			"proc/config.gz":                    {Data: zipped(t, "# CONFIG_HZ_100 is not set\nCONFIG_HZ_250=y\nCONFIG_HZ=250\n")},
			"proc/sys/net/core/bpf_jit_enable":  {Data: []byte("1\n")},
			"proc/sys/net/core/bpf_jit_harden":  {Data: []byte("0\n")},
			vulnerable + "l1tf":                 {Data: []byte("Not affected\n")},
			vulnerable + "spec_store_bypass":    {Data: []byte("Vulnerable\n")},
			vulnerable + "spectre_v2":           {Data: []byte("Mitigation: Retpolines; STIBP: disabled\n")},
			"sys/class/dmi/id/sys_vendor":       {Data: []byte("QEMU\n")},
			"sys/class/dmi/id/product_name":     {Data: []byte("Standard PC\n")},
			"proc/sys/kernel/osrelease":         {Data: []byte("6.1.0-1\n")},
			"boot/config-6.1.0-1":               {Data: []byte("CONFIG_HZ=1000\n")},
			"sys/devices/system/clocksource/x":  {Data: []byte("not this one")},
			"sys/devices/system/cpu/unknown/is": {Data: []byte("left alone")},
			"sys/devices/system/clocksource/clocksource0/current_clocksource": {Data: []byte("tsc\n")},
		}, map[string]string{
			"cpu": "AMD EPYC", "memory": "16.0 GiB", "hz": "250", "clocksource": "tsc", "bpf-jit": "on",
			"hypervisor":  "QEMU Standard PC",
			"mitigations": "spec_store_bypass: Vulnerable | spectre_v2: Retpolines; STIBP: disabled",
		}},
		"a bare machine": {fstest.MapFS{
			"proc/cpuinfo":                     {Data: []byte("CPU part\t: 0xd0c\nflags : fpu\n")},
			"proc/sys/kernel/osrelease":        {Data: []byte("6.1.0-1\n")},
			"boot/config-6.1.0-1":              {Data: []byte("CONFIG_HZ=1000\n")},
			"proc/sys/net/core/bpf_jit_enable": {Data: []byte("1\n")},
			"proc/sys/net/core/bpf_jit_harden": {Data: []byte("2\n")},
			vulnerable + "l1tf":                {Data: []byte("Not affected\n")},
		}, map[string]string{
			"cpu": "0xd0c", "hz": "1000", "hypervisor": "none", "bpf-jit": "on, hardened", "mitigations": "none needed",
		}},
		"a virtual one without names": {fstest.MapFS{
			"proc/cpuinfo": {Data: []byte("flags : hypervisor\n")},
			"proc/meminfo": {Data: []byte("MemTotal: many\n")},
		}, map[string]string{"hypervisor": "yes, which does not tell its name"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := map[string]string{}
			for _, fact := range told(machine(tt.root)) {
				got[fact.Key] = fact.Value
			}
			for key, want := range tt.want {
				if got[key] != want {
					t.Errorf("%s is %q, want %q", key, got[key], want)
				}
				delete(got, key)
			}
			for key, value := range got {
				t.Errorf("%s is %q, and nothing tells that", key, value)
			}
		})
	}
}

// A fact is one line, whatever a file holds.
func TestTold(t *testing.T) {
	got := told([]sheet.About{{Key: "a", Value: " x\n\ty "}, {Key: "b", Value: " \n"}})
	if len(got) != 1 || got[0].Value != "x y" {
		t.Errorf("%q", got)
	}
}

func TestQuiet(t *testing.T) {
	for average, notes := range map[string]int{"0.40": 0, "1.00": 0, "1.01": 1, "12.5": 1, "": 0} {
		s := &sheet.Sheet{}
		quiet(s, average)
		if got := len(s.Notes("About")); got != notes {
			t.Errorf("load %q: %d notes, want %d", average, got, notes)
		}
	}
	if got := load(fstest.MapFS{"proc/loadavg": {Data: []byte("1.06 0.92 2.25 4/116 22294\n")}}); got != "1.06" {
		t.Errorf("load %q", got)
	}
}
