package e2e

import (
	"slices"
	"time"
)

// The nodes of a cluster reach each other through proxies, one for each direction
// of each pair. So a test can break the network between the servers while all of
// them run and have clients.

// nowhere is the address that nodes announce to each other. With their true
// addresses they would connect directly, past the proxies. Nothing listens on
// port 1.
const nowhere = "127.0.0.1:1"

// link makes the proxies between the nodes.
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

// way returns the address at which a node reaches another one; its own for
// itself.
func (c *cluster) way(from *clusterNode, to int) string {
	if i := c.index(from); i != to {
		return c.links[i][to].addr
	}
	return from.route
}

func (c *cluster) index(n *clusterNode) int { return slices.Index(c.nodes[:], n) }

// between returns the proxies between two nodes.
func (c *cluster) between(a, b *clusterNode) []*proxy {
	i, j := c.index(a), c.index(b)
	return []*proxy{c.links[i][j], c.links[j][i]}
}

// around returns the proxies between a node and all others.
func (c *cluster) around(n *clusterNode) (ways []*proxy) {
	for _, m := range c.nodes {
		if m != n {
			ways = append(ways, c.between(n, m)...)
		}
	}
	return ways
}

// routeFaults break the network between NATS servers. Client connections stay
// open.
var routeFaults = []fault{
	{"nats cut off", 3, (*saboteur).cutOffNode, 500 * time.Millisecond, 9 * time.Second},
	{"nats held off", 3, (*saboteur).holdOffNode, 500 * time.Millisecond, 9 * time.Second},
	{"route cut", 2, (*saboteur).cutRoute, 500 * time.Millisecond, 9 * time.Second},
	{"route held", 2, (*saboteur).holdRoute, 500 * time.Millisecond, 9 * time.Second},
}

// cutOffNode cuts off a node: its routes are reset and new ones are refused.
func (b *saboteur) cutOffNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.breakWays(n, b.cluster.around(n), (*proxy).sever, d)
	}
}

// holdOffNode cuts off a node by silence: messages between it and the others come
// late.
func (b *saboteur) holdOffNode(d time.Duration) {
	if n := b.aNode(); n != nil {
		b.breakWays(n, b.cluster.around(n), (*proxy).hold, d)
	}
}

// cutRoute cuts the route between two nodes that both still reach the third one.
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

// breakWays breaks proxies of a node, which counts as broken until they are
// repaired.
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
