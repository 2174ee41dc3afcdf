package jq

import (
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"strings"

	"github.com/itchyny/gojq"
)

// functions are those that expressions have beside jq's own: Ethereum and others write
// numbers in hexadecimal.
var functions = []gojq.CompilerOption{
	gojq.WithFunction("hex", 0, 0, func(v any, _ []any) any { return toHex(v) }),
	gojq.WithFunction("fromhex", 0, 0, func(v any, _ []any) any { return fromHex(v) }),
}

// toHex is the function hex: it makes "0x1a" of 26.
func toHex(v any) any {
	n := new(big.Int)
	switch v := v.(type) {
	case int:
		n.SetInt64(int64(v))
	case *big.Int:
		n = v
	case float64:
		if v != math.Trunc(v) || math.IsInf(v, 0) {
			return notWhole(fmt.Sprint(v))
		}
		big.NewFloat(v).Int(n)
	case json.Number:
		if _, ok := n.SetString(v.String(), 10); !ok {
			return notWhole(v.String())
		}
	default:
		return fmt.Errorf("hex cannot be applied to: %s", gojq.TypeOf(v))
	}
	if n.Sign() < 0 {
		return "-0x" + n.Text(16)[1:]
	}
	return "0x" + n.Text(16)
}

// notWhole is the error of hex for a number with a fraction.
func notWhole(number string) error {
	return &RedactedError{
		Public: "hex cannot be applied to what is no whole number",
		Full:   "hex cannot be applied to " + Short(number) + ", which is no whole number",
	}
}

// fromHex is the function fromhex: it makes 26 of "0x1a" or "1a".
func fromHex(v any) any {
	s, ok := v.(string)
	if !ok {
		return fmt.Errorf("fromhex cannot be applied to: %s", gojq.TypeOf(v))
	}
	digits, negative := strings.CutPrefix(s, "-")
	if len(digits) > 1 && digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X') {
		digits = digits[2:]
	}
	n, ok := new(big.Int).SetString(digits, 16)
	if !ok || strings.ContainsAny(digits, "+-_") || len(digits) > 256 {
		return fmt.Errorf("fromhex cannot be applied to %q", Short(s))
	}
	if negative {
		n.Neg(n)
	}
	if n.IsInt64() {
		return int(n.Int64())
	}
	return n
}
