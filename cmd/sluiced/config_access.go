package main

import (
	"path/filepath"
	"strings"
)

// accessConfig says who may write over the network.
type accessConfig struct {
	Tokens string // file of tokens, see registry/access; empty: nobody has one
}

func (a *accessConfig) schema(d *document) decoder {
	return d.object(keys{"tokens": d.text(&a.Tokens)})
}

func (a *accessConfig) check(d *document) { checkFile(d, "access.tokens", &a.Tokens) }

// checkFile wants an absolute path, or none.
func checkFile(d *document, key string, path *string) {
	if *path == "" {
		return
	}
	if !filepath.IsAbs(*path) || strings.ContainsRune(*path, 0) {
		d.fail(key, "%q: want an absolute path", *path)
		return
	}
	*path = filepath.Clean(*path)
}
