package gateway

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

// lengthCases: section 5.2, payload length.
func lengthCases() []rfcCase {
	var all []rfcCase
	for i, size := range []int{19, 124, 125, 126, 127, 128, 255, 256, 4095, 4096, 65534, 65535, 65536, 65537, 200_000, 256 << 10} {
		all = append(all, rfcCase{"5.2", fmt.Sprintf("text of %d bytes", size),
			[][]byte{clientFrame(fin|txt, ask(i+1, size))}, []string{text(i + 1)}, staysOpen})
	}
	for _, size := range []int{0, 19, 125} {
		all = append(all, rfcCase{"5.2", fmt.Sprintf("length %d in 2 bytes", size),
			[][]byte{wideFrame(fin|txt, ask(1, size)[:size], 2)}, []string{closed(1002)}, ends})
	}
	for _, size := range []int{0, 19, 125, 126, 65535} {
		all = append(all, rfcCase{"5.2", fmt.Sprintf("length %d in 8 bytes", size),
			[][]byte{wideFrame(fin|txt, ask(1, size)[:size], 8)}, []string{closed(1002)}, ends})
	}
	huge := func(length ...byte) []byte {
		return append(append([]byte{fin | txt, 0xff}, length...), 0, 0, 0, 0, 'x')
	}
	return append(all,
		rfcCase{"5.2", "length with the highest bit set", [][]byte{huge(0x80, 0, 0, 0, 0, 0, 0, 19)}, []string{closed(1002)}, ends},
		rfcCase{"5.2", "length of all ones", [][]byte{huge(0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)}, []string{closed(1002)}, ends},
		rfcCase{"7.4.1", "length of 2^63-1", [][]byte{huge(0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)}, []string{closed(1009)}, ends},
		rfcCase{"7.4.1", "fragments whose lengths overflow", [][]byte{clientFrame(txt, []byte("{")), append([]byte{cont, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, 0, 0, 0, 0)}, []string{closed(1009)}, ends},
		rfcCase{"7.4.1", "a byte more than the gateway takes", [][]byte{clientFrame(fin|txt, ask(1, 256<<10+1))}, []string{closed(1009)}, ends},
		rfcCase{"7.4.1", "fragments of more than the gateway takes", [][]byte{clientFrame(txt, ask(1, 200_000)), clientFrame(cont, bytes.Repeat([]byte(" "), 100_000))}, []string{closed(1009)}, ends},
		rfcCase{"5.2", "one byte a write", split(clientFrame(fin|txt, ask(3, 130))), []string{text(3)}, staysOpen},
		rfcCase{"5.2", "many frames in one write", [][]byte{slices.Concat(clientFrame(fin|txt, ask(1, 0)), clientFrame(fin|txt, ask(2, 300)), clientFrame(fin|ping_, []byte("p")), clientFrame(fin|txt, ask(3, 0)))},
			[]string{text(1), text(2), pong("p"), text(3)}, staysOpen},
		rfcCase{"5.2", "two frames, cut in the middle of the second's length", cut(slices.Concat(clientFrame(fin|txt, ask(1, 0)), clientFrame(fin|txt, ask(2, 300))), 28), []string{text(1), text(2)}, staysOpen},
		rfcCase{"5.2", "an empty message", [][]byte{clientFrame(fin|txt, nil)}, []string{"error bad_frame"}, staysOpen},
		rfcCase{"5.6", "an empty binary message", [][]byte{clientFrame(fin|bin, nil)}, []string{"error bad_frame"}, staysOpen},
		rfcCase{"5.6", "binary where the subprotocol has text", [][]byte{clientFrame(fin|bin, ask(1, 0))}, []string{"error bad_frame"}, staysOpen},
	)
}

func cut(b []byte, at int) [][]byte { return [][]byte{b[:at], b[at:]} }

// fragmentCases: section 5.4.
func fragmentCases() []rfcCase {
	m := ask(7, 40)
	frames := func(f ...[]byte) [][]byte { return f }
	many := frames(clientFrame(txt, m[:1]))
	for _, b := range m[1:] {
		many = append(many, clientFrame(cont, []byte{b}))
	}
	many = append(many, clientFrame(fin|cont, nil))
	return []rfcCase{
		{"5.4", "two fragments", frames(clientFrame(txt, m[:9]), clientFrame(fin|cont, m[9:])), []string{text(7)}, staysOpen},
		{"5.4", "three fragments", frames(clientFrame(txt, m[:9]), clientFrame(cont, m[9:12]), clientFrame(fin|cont, m[12:])), []string{text(7)}, staysOpen},
		{"5.4", "a fragment for every byte", many, []string{text(7)}, staysOpen},
		{"5.4", "fragments in one write", frames(slices.Concat(many...)), []string{text(7)}, staysOpen},
		{"5.4", "the first is empty", frames(clientFrame(txt, nil), clientFrame(fin|cont, m)), []string{text(7)}, staysOpen},
		{"5.4", "the one in the middle is empty", frames(clientFrame(txt, m[:9]), clientFrame(cont, nil), clientFrame(fin|cont, m[9:])), []string{text(7)}, staysOpen},
		{"5.4", "the last is empty", frames(clientFrame(txt, m), clientFrame(fin|cont, nil)), []string{text(7)}, staysOpen},
		{"5.4", "all are empty", frames(clientFrame(txt, nil), clientFrame(cont, nil), clientFrame(fin|cont, nil)), []string{"error bad_frame"}, staysOpen},
		{"5.4", "fragments of 64 KiB", frames(clientFrame(txt, m), clientFrame(cont, bytes.Repeat([]byte(" "), 65536)), clientFrame(fin|cont, bytes.Repeat([]byte("\n"), 65536))), []string{text(7)}, staysOpen},
		{"5.4", "binary fragments", frames(clientFrame(bin, m[:9]), clientFrame(fin|cont, m[9:])), []string{"error bad_frame"}, staysOpen},
		{"5.4", "two messages of fragments", frames(clientFrame(txt, ask(1, 0)[:5]), clientFrame(fin|cont, ask(1, 0)[5:]), clientFrame(txt, ask(2, 0)[:5]), clientFrame(fin|cont, ask(2, 0)[5:])), []string{text(1), text(2)}, staysOpen},
		{"5.4", "a ping between", frames(clientFrame(txt, m[:9]), clientFrame(fin|ping_, []byte("now")), clientFrame(fin|cont, m[9:])), []string{pong("now"), text(7)}, staysOpen},
		{"5.4", "a ping between is answered at once", frames(clientFrame(txt, m[:9]), clientFrame(fin|ping_, []byte("now"))), []string{pong("now")}, drops},
		{"5.4", "pings between all", frames(clientFrame(txt, m[:9]), clientFrame(fin|ping_, []byte("1")), clientFrame(cont, m[9:12]), clientFrame(fin|ping_, []byte("2")), clientFrame(fin|cont, m[12:])), []string{pong("1"), pong("2"), text(7)}, staysOpen},
		{"5.4", "a pong between", frames(clientFrame(txt, m[:9]), clientFrame(fin|pong_, []byte("x")), clientFrame(fin|cont, m[9:])), []string{text(7)}, staysOpen},
		{"5.4", "a close between", frames(clientFrame(txt, m[:9]), closing(1000, "")), []string{closed(1000)}, ends},
		{"5.4", "text between", frames(clientFrame(txt, m[:9]), clientFrame(fin|txt, ask(1, 0)), clientFrame(fin|cont, m[9:])), []string{closed(1002)}, ends},
		{"5.4", "binary between", frames(clientFrame(txt, m[:9]), clientFrame(fin|bin, m)), []string{closed(1002)}, ends},
		{"5.4", "another fragmented message between", frames(clientFrame(txt, m[:9]), clientFrame(txt, m[:9])), []string{closed(1002)}, ends},
		{"5.4", "a last fragment of nothing", frames(clientFrame(fin|cont, m)), []string{closed(1002)}, ends},
		{"5.4", "a fragment of nothing", frames(clientFrame(cont, m)), []string{closed(1002)}, ends},
		{"5.4", "an empty fragment of nothing", frames(clientFrame(fin|cont, nil)), []string{closed(1002)}, ends},
		{"5.4", "a fragment after the last", frames(clientFrame(txt, m[:9]), clientFrame(fin|cont, m[9:]), clientFrame(fin|cont, m)), []string{text(7), closed(1002)}, ends},
		{"5.4", "a fragment after a whole message", frames(clientFrame(fin|txt, ask(1, 0)), clientFrame(cont, m)), []string{text(1), closed(1002)}, ends},
	}
}

// utf8Cases: sections 5.6 and 8.1. A text in a frame that the gateway ignores
// the content of: "x" is no field of ping.
func utf8Cases() []rfcCase {
	withText := func(s string) []byte { return []byte(`{"id":5,"ping":{"x":"` + s + `"}}`) }
	var all []rfcCase
	for _, good := range []struct{ name, s string }{
		{"ASCII", "plain"}, {"2 bytes", "\u0080\u00e9\u07ff"}, {"3 bytes", "\u0800\u20ac\ud7ff\ue000\uffff"},
		{"4 bytes", "\U00010000\U0001F600\U0010FFFF"}, {"a noncharacter", "\ufdd0\ufffe"}, {"a replacement character", "\ufffd"}, {"NUL, escaped", `\u0000`},
	} {
		all = append(all, rfcCase{"8.1", good.name, [][]byte{clientFrame(fin|txt, withText(good.s))}, []string{text(5)}, staysOpen})
	}
	for _, bad := range []struct{ name, s string }{
		{"a lone continuation byte", "\x80"}, {"continuation bytes", "\xbf\x80"}, {"a start without its rest", "\xe2\x82"}, {"a start and ASCII", "\xc3A"},
		{"overlong of 2", "\xc0\xaf"}, {"overlong of 3", "\xe0\x80\xaf"}, {"overlong of 4", "\xf0\x80\x80\xaf"}, {"overlong NUL", "\xc0\x80"},
		{"a surrogate", "\xed\xa0\x80"}, {"a pair of surrogates", "\xed\xa0\xbd\xed\xb8\x80"}, {"beyond U+10FFFF", "\xf4\x90\x80\x80"},
		{"5 bytes", "\xf8\x88\x80\x80\x80"}, {"6 bytes", "\xfc\x84\x80\x80\x80\x80"}, {"FE", "\xfe"}, {"FF", "\xff"}, {"Latin-1", "caf\xe9"},
	} {
		all = append(all, rfcCase{"8.1", "not UTF-8: " + bad.name, [][]byte{clientFrame(fin|txt, withText(bad.s))}, []string{closed(1007)}, ends})
	}
	euro := withText("\u20ac")
	at := bytes.IndexByte(euro, 0xe2) + 1
	return append(all,
		rfcCase{"5.6", "a character over two fragments", [][]byte{clientFrame(txt, euro[:at]), clientFrame(fin|cont, euro[at:])}, []string{text(5)}, staysOpen},
		rfcCase{"5.6", "a character over three fragments with a ping", [][]byte{clientFrame(txt, euro[:at]), clientFrame(cont, euro[at:at+1]), clientFrame(fin|ping_, nil), clientFrame(fin|cont, euro[at+1:])}, []string{pong(""), text(5)}, staysOpen},
		rfcCase{"8.1", "not UTF-8 in the second fragment", [][]byte{clientFrame(txt, []byte(`{"id":5,"ping":{"x":"`)), clientFrame(fin|cont, []byte("\xff\"}}"))}, []string{closed(1007)}, ends},
		rfcCase{"8.1", "the message ends in a character", [][]byte{clientFrame(fin|txt, []byte("\"\xe2\x82"))}, []string{closed(1007)}, ends},
		rfcCase{"5.6", "binary need not be UTF-8", [][]byte{clientFrame(fin|bin, []byte("\xff\xfe"))}, []string{"error bad_frame"}, staysOpen},
		rfcCase{"5.5.2", "a ping need not be UTF-8", [][]byte{clientFrame(fin|ping_, []byte("\xff\xfe"))}, []string{pong("\xff\xfe")}, staysOpen},
	)
}

// controlCases: section 5.5, pings and pongs.
func controlCases() []rfcCase {
	long := strings.Repeat("p", 125)
	var ten [][]byte
	var answers []string
	for i := range 10 {
		ten = append(ten, clientFrame(fin|ping_, fmt.Append(nil, i)))
		answers = append(answers, pong(fmt.Sprint(i)))
	}
	all := []rfcCase{
		{"5.5.2", "ping", [][]byte{clientFrame(fin|ping_, nil)}, []string{pong("")}, staysOpen},
		{"5.5.2", "ping with a payload", [][]byte{clientFrame(fin|ping_, []byte("hello"))}, []string{pong("hello")}, staysOpen},
		{"5.5.2", "ping with NUL", [][]byte{clientFrame(fin|ping_, []byte{0})}, []string{pong("\x00")}, staysOpen},
		{"5.5", "ping of 125 bytes", [][]byte{clientFrame(fin|ping_, []byte(long))}, []string{pong(long)}, staysOpen},
		{"5.5", "ping of 126 bytes", [][]byte{clientFrame(fin|ping_, []byte(long+"p"))}, []string{closed(1002)}, ends},
		{"5.5", "ping of 64 KiB", [][]byte{clientFrame(fin|ping_, bytes.Repeat([]byte("p"), 65536))}, []string{closed(1002)}, ends},
		{"5.5.2", "ten pings", ten, answers, staysOpen},
		{"5.5.2", "ten pings in one write", [][]byte{slices.Concat(ten...)}, answers, staysOpen},
		{"5.5.2", "a ping a byte a write", split(clientFrame(fin|ping_, []byte("slow"))), []string{pong("slow")}, staysOpen},
		{"5.5.3", "a pong nobody asked for", [][]byte{clientFrame(fin|pong_, nil)}, nil, staysOpen},
		{"5.5.3", "a pong with a payload nobody asked for", [][]byte{clientFrame(fin|pong_, []byte(long))}, nil, staysOpen},
		{"5.5", "pong of 126 bytes", [][]byte{clientFrame(fin|pong_, []byte(long+"p"))}, []string{closed(1002)}, ends},
	}
	for name, op := range map[string]byte{"ping": ping_, "pong": pong_, "close": clos} {
		all = append(all, rfcCase{"5.5", "a fragment of a " + name, [][]byte{clientFrame(op, nil)}, []string{closed(1002)}, ends})
	}
	slices.SortFunc(all, func(a, b rfcCase) int { return strings.Compare(a.section+a.name, b.section+b.name) })
	return all
}

// ruleCases: masks (5.1), reserved bits and opcodes (5.2), and clients that
// leave in the middle (7.1).
func ruleCases() []rfcCase {
	var all []rfcCase
	for _, f := range []struct {
		name  string
		frame []byte
	}{
		{"text", unmasked(fin|txt, "{}")}, {"binary", unmasked(fin|bin, "{}")}, {"a ping", unmasked(fin|ping_, "")}, {"a pong", unmasked(fin|pong_, "x")},
		{"a close", unmasked(fin|clos, "\x03\xe8")}, {"a first fragment", unmasked(txt, "{")},
	} {
		all = append(all, rfcCase{"5.1", f.name + " without mask", [][]byte{f.frame}, []string{closed(1002)}, ends})
	}
	zero := append([]byte{fin | txt, 0x80 | byte(len(ask(9, 0))), 0, 0, 0, 0}, ask(9, 0)...)
	all = append(all,
		rfcCase{"5.3", "a mask of zeros", [][]byte{zero}, []string{text(9)}, staysOpen},
		rfcCase{"5.1", "a frame without mask after one with", [][]byte{clientFrame(fin|txt, ask(1, 0)), unmasked(fin|txt, "{}")}, []string{text(1), closed(1002)}, ends},
	)
	for bits := byte(0x10); bits <= 0x70; bits += 0x10 {
		all = append(all, rfcCase{"5.2", fmt.Sprintf("reserved bits %03b on text", bits>>4), [][]byte{clientFrame(fin|bits|txt, ask(1, 0))}, []string{closed(1002)}, ends})
	}
	for name, op := range map[string]byte{"ping": ping_, "pong": pong_, "close": clos, "last fragment": cont} {
		all = append(all, rfcCase{"5.2", "a reserved bit on a " + name, [][]byte{clientFrame(txt, nil), clientFrame(fin|0x40|op, nil)}, []string{closed(1002)}, ends})
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		all = append(all,
			rfcCase{"5.2", fmt.Sprintf("opcode %X", op), [][]byte{clientFrame(fin|op, nil)}, []string{closed(1002)}, ends},
			rfcCase{"5.2", fmt.Sprintf("opcode %X with a payload, after a message", op), [][]byte{clientFrame(fin|txt, ask(1, 0)), clientFrame(fin|op, []byte("data"))}, []string{text(1), closed(1002)}, ends})
	}
	whole := clientFrame(fin|txt, ask(1, 300))
	for _, n := range []int{1, 2, 3, 4, 6, 8, 200} {
		all = append(all,
			rfcCase{"7.1.7", fmt.Sprintf("gone after %d bytes of a frame", n), [][]byte{whole[:n]}, nil, drops},
			rfcCase{"7.1.7", fmt.Sprintf("nothing more is sent after %d bytes of a frame", n), [][]byte{whole[:n]}, nil, halfClose})
	}
	slices.SortStableFunc(all, func(a, b rfcCase) int { return strings.Compare(a.section, b.section) })
	return append(all,
		rfcCase{"7.1.7", "gone in the middle of a fragmented message", [][]byte{clientFrame(txt, []byte("{"))}, nil, drops},
		rfcCase{"7.1.7", "nothing more is sent in the middle of a fragmented message", [][]byte{clientFrame(txt, []byte("{"))}, nil, halfClose},
		rfcCase{"7.1.7", "gone at once", nil, nil, drops},
		rfcCase{"7.1.7", "nothing is sent", nil, nil, halfClose},
	)
}

// closeCases: sections 5.5.1, 7.1 and 7.4.
func closeCases() []rfcCase {
	var all []rfcCase
	for _, code := range []int{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999} {
		all = append(all, rfcCase{"7.4", fmt.Sprintf("close %d is answered alike", code), [][]byte{closing(code, "")}, []string{closed(code)}, ends})
	}
	for _, code := range []int{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		all = append(all, rfcCase{"7.4", fmt.Sprintf("close %d must not be sent", code), [][]byte{closing(code, "")}, []string{closed(1002)}, ends})
	}
	return append(all,
		rfcCase{"5.5.1", "close without a code", [][]byte{clientFrame(fin|clos, nil)}, []string{closed(1000)}, ends},
		rfcCase{"5.5.1", "close with half a code", [][]byte{clientFrame(fin|clos, []byte{3})}, []string{closed(1002)}, ends},
		rfcCase{"5.5.1", "close with a reason", [][]byte{closing(1000, "bye")}, []string{closed(1000)}, ends},
		rfcCase{"5.5.1", "close with a reason of 123 bytes", [][]byte{closing(1000, strings.Repeat("r", 123))}, []string{closed(1000)}, ends},
		rfcCase{"5.5", "close with a reason of 124 bytes", [][]byte{closing(1000, strings.Repeat("r", 124))}, []string{closed(1002)}, ends},
		rfcCase{"5.5.1", "close with a reason that is not UTF-8", [][]byte{closing(1000, "\xff")}, []string{closed(1002)}, ends},
		rfcCase{"5.5.1", "close with a reason that ends in a character", [][]byte{closing(1000, "\xe2\x82")}, []string{closed(1002)}, ends},
		rfcCase{"5.5.1", "close with a long reason of many bytes a character", [][]byte{closing(1000, strings.Repeat("\u20ac", 41))}, []string{closed(1000)}, ends},
		rfcCase{"5.5.1", "close a byte a write", split(closing(4321, "slow")), []string{closed(4321)}, ends},
		rfcCase{"5.5.1", "a message before close is answered", [][]byte{slices.Concat(clientFrame(fin|txt, ask(1, 0)), closing(1000, ""))}, []string{text(1), closed(1000)}, ends},
		rfcCase{"1.4", "a message after close is not", [][]byte{slices.Concat(closing(1000, ""), clientFrame(fin|txt, ask(1, 0)))}, []string{closed(1000)}, ends},
		rfcCase{"1.4", "a ping after close is not answered", [][]byte{slices.Concat(closing(1000, ""), clientFrame(fin|ping_, nil))}, []string{closed(1000)}, ends},
		rfcCase{"1.4", "a second close changes nothing", [][]byte{slices.Concat(closing(4000, ""), closing(4001, ""))}, []string{closed(4000)}, ends},
		rfcCase{"1.4", "garbage after close changes nothing", [][]byte{slices.Concat(closing(1000, ""), []byte("\xff\xff\xff\xff"))}, []string{closed(1000)}, ends},
		rfcCase{"7.1.1", "the client sends no more after close", [][]byte{closing(1000, "")}, []string{closed(1000)}, halfClose},
		rfcCase{"7.1.7", "garbage instead of frames", [][]byte{[]byte("GET / HTTP/1.1\r\n\r\n")}, []string{closed(1002)}, ends},
	)
}
