// Command sluice-cni is the CNI plugin. A runtime runs it for each verb.
package main

import (
	"os"

	"github.com/containernetworking/cni/pkg/skel"

	"github.com/sluice-net/sluice/cni"
)

// version is set by the linker.
var version = "dev"

func main() {
	plugin := &cni.Plugin{Out: os.Stdout, Log: os.Stderr}
	skel.PluginMainFuncs(plugin.Funcs(), cni.Versions(), "CNI plugin sluice-cni "+version)
}
