package cni

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/types"
)

// decode reads one field; the error names it and what was wrong.
func decode(path string, raw json.RawMessage, v any) error {
	return fieldError(path, json.Unmarshal(raw, v))
}

// decodeStrict is decode for a form that is our own: unknown keys are errors.
func decodeStrict(path string, raw json.RawMessage, v any) error {
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	return fieldError(path, d.Decode(v))
}

func fieldError(path string, err error) error {
	if err == nil {
		return nil
	}
	if wrong, ok := err.(*json.UnmarshalTypeError); ok {
		if wrong.Field != "" {
			path += "." + wrong.Field
		}
		return configError(path, "a JSON %s where %s belongs", wrong.Value, kindName(wrong.Type.Kind().String()))
	}
	return configError(path, "%s", strings.TrimPrefix(err.Error(), "json: "))
}

// kindName says in JSON's words what Go's type stands for.
func kindName(kind string) string {
	switch kind {
	case "slice", "array":
		return "an array"
	case "map", "struct":
		return "an object"
	case "bool":
		return "true or false"
	case "string":
		return "a string"
	}
	return "a number in range (" + kind + ")"
}

func configError(path, format string, args ...any) error {
	return types.NewError(types.ErrInvalidNetworkConfig, path+": "+fmt.Sprintf(format, args...), "")
}

// unsupported refuses a field; the specification wants its key and value named.
func unsupported(path string, raw json.RawMessage, why string) error {
	value := string(raw)
	if len(value) > 200 {
		value = value[:200] + "..."
	}
	return types.NewError(types.ErrUnsupportedField, fmt.Sprintf("unsupported field %s = %s: %s", path, value, why), "")
}
