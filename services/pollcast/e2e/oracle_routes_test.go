package e2e

import (
	"slices"
	"time"
)

// The nodes of a cluster reach each other through proxies, one for each
// direction of each pair: what NATS does when the network between its servers
// breaks, while all of them live and each has clients, is then up to the test.

// nowhere is what nodes tell others of how to reach them: they would go there
// by themselves, past the proxies. Nothing listens on port 1.
const nowhere = "127.0.0.1:1"

// link makes the ways between the nodes.
func (c *cluster) link() {
	c.t.Helper()
	for i := range c.nodes {
		for j, to := range c.nodes {
			if i != j {
				c.links[i][j] = newProxy(c.t, to.route)
			}
		}
	}
}

// way is the address at which a node finds another: itself at its own.
func (c *cluster) way(from *clusterNode, to int) string {
	if i := c.index(from); i != to {
		return c.links[i][to].addr
	}
	return from.route
}

func (c *cluster) index(n *clusterNode) int { return slices.Index(c.nodes[:], n) }

// between are the ways between two nodes.
func (c *cluster) between(a, b *clusterNode) []*proxy {
	i, j := c.index(a), c.index(b)
	return []*proxy{c.links[i][j], c.links[j][i]}
}

// around are the ways between a node and all others.
func (c *cluster) around(n *clusterNode) (ways []*proxy) {
	for _, m := range c.nodes {
		if m != n {
			ways = append(ways, c.between(n, m)...)
		}
	}
	return ways
}

// routeFaults break the network between NATS servers. Nobody else notices: who
// is connected to a server stays so.
var routeFaults = []fault{
	{"nats cut off", 3, (*saboteur).cutOffNode, 500 * time.Millisecond, 9 * time.Second},
	{"nats held off", 3, (*saboteur).holdOffNode, 500 * time.Millisecond, 9 * time.Second},
	{"route cut", 2, (*saboteur).cutRoute, 500 * time.Millisecond, 9 * time.Second},
	{"route held", 2, (*saboteur).holdRoute, 500 * time.Millisecond, 9 * time.Second},
}

// cutOffNode leaves a node alone: its routes are reset, and there are no others.
func (b *saboteur) cutOffNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.breakWays(n, b.cluster.around(n), (*proxy).sever, d)
	}
}

// holdOffNode is the same with a network that says nothing: what the node and
// the others have to say to each other comes late.
func (b *saboteur) holdOffNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.breakWays(n, b.cluster.around(n), (*proxy).hold, d)
	}
}

// cutRoute parts two nodes that both still reach the third one.
func (b *saboteur) cutRoute(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.breakWays(n, b.cluster.between(n, b.another(n)), (*proxy).sever, d)
	}
}

func (b *saboteur) holdRoute(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.breakWays(n, b.cluster.between(n, b.another(n)), (*proxy).hold, d)
	}
}

func (b *saboteur) another(n *clusterNode) *clusterNode {
	return b.cluster.nodes[(b.cluster.index(n)+1+b.rng.IntN(clusterSize-1))%clusterSize]
}

// breakWays breaks ways of a node, which counts as broken meanwhile.
func (b *saboteur) breakWays(n *clusterNode, ways []*proxy, how func(*proxy), d time.Duration) {
	for _, p := range ways {
		how(p)
	}
	b.later(d, n, func() {
		for _, p := range ways {
			p.let()
		}
	})
}
