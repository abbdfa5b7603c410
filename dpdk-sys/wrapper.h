/* What bindgen reads. Only what build.rs allows by name ends up in the bindings. */
#include <stdint.h>
#include <stddef.h>

#include <rte_config.h>
#include <rte_version.h>
#include <rte_errno.h>
#include <rte_eal.h>
#include <rte_log.h>
#include <rte_lcore.h>
#include <rte_dev.h>
#include <rte_mbuf.h>
#include <rte_mbuf_dyn.h>
#include <rte_mempool.h>
#include <rte_ethdev.h>
#include <rte_hash.h>

#include "shim.h"

/* Offsets and sizes, as LAYOUT_struct_field and SIZE_struct. */
#define FIELD(type, field) static const size_t LAYOUT_##type##_##field = offsetof(struct type, field);
#define SIZE(type) static const size_t SIZE_##type = sizeof(struct type);
#include "layout.h"
#undef FIELD
#undef SIZE

/* Macros that bindgen cannot evaluate (casts, function-like macros inside): each
 * becomes a constant, and build.rs takes the prefix away again. */
#define CONST(type, name) static const type PX_##name = name;

CONST(uint64_t, RTE_ETH_RX_OFFLOAD_VLAN_STRIP)
CONST(uint64_t, RTE_ETH_RX_OFFLOAD_IPV4_CKSUM)
CONST(uint64_t, RTE_ETH_RX_OFFLOAD_UDP_CKSUM)
CONST(uint64_t, RTE_ETH_RX_OFFLOAD_TCP_CKSUM)
CONST(uint64_t, RTE_ETH_RX_OFFLOAD_SCATTER)
CONST(uint64_t, RTE_ETH_RX_OFFLOAD_RSS_HASH)
CONST(uint64_t, RTE_ETH_TX_OFFLOAD_VLAN_INSERT)
CONST(uint64_t, RTE_ETH_TX_OFFLOAD_IPV4_CKSUM)
CONST(uint64_t, RTE_ETH_TX_OFFLOAD_UDP_CKSUM)
CONST(uint64_t, RTE_ETH_TX_OFFLOAD_TCP_CKSUM)
CONST(uint64_t, RTE_ETH_TX_OFFLOAD_MULTI_SEGS)
CONST(uint64_t, RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE)

CONST(uint64_t, RTE_ETH_RSS_IP)
CONST(uint64_t, RTE_ETH_RSS_TCP)
CONST(uint64_t, RTE_ETH_RSS_UDP)
CONST(uint64_t, RTE_ETH_RSS_SCTP)
/* The top bits, by number: bindgen does not evaluate a constant above INT64_MAX. */
static const uint32_t RSS_L3_SRC_ONLY_BIT = __builtin_ctzll(RTE_ETH_RSS_L3_SRC_ONLY);
static const uint32_t RSS_L3_DST_ONLY_BIT = __builtin_ctzll(RTE_ETH_RSS_L3_DST_ONLY);
static const uint32_t RSS_L4_SRC_ONLY_BIT = __builtin_ctzll(RTE_ETH_RSS_L4_SRC_ONLY);
static const uint32_t RSS_L4_DST_ONLY_BIT = __builtin_ctzll(RTE_ETH_RSS_L4_DST_ONLY);

CONST(uint64_t, RTE_MBUF_F_RX_VLAN)
CONST(uint64_t, RTE_MBUF_F_RX_VLAN_STRIPPED)
CONST(uint64_t, RTE_MBUF_F_RX_IP_CKSUM_MASK)
CONST(uint64_t, RTE_MBUF_F_RX_IP_CKSUM_BAD)
CONST(uint64_t, RTE_MBUF_F_RX_IP_CKSUM_GOOD)
CONST(uint64_t, RTE_MBUF_F_RX_L4_CKSUM_MASK)
CONST(uint64_t, RTE_MBUF_F_RX_L4_CKSUM_BAD)
CONST(uint64_t, RTE_MBUF_F_RX_L4_CKSUM_GOOD)
CONST(uint64_t, RTE_MBUF_F_RX_RSS_HASH)
CONST(uint64_t, RTE_MBUF_F_RX_FDIR)
CONST(uint64_t, RTE_MBUF_F_TX_IP_CKSUM)
CONST(uint64_t, RTE_MBUF_F_TX_IPV4)
CONST(uint64_t, RTE_MBUF_F_TX_IPV6)
CONST(uint64_t, RTE_MBUF_F_TX_TCP_CKSUM)
CONST(uint64_t, RTE_MBUF_F_TX_UDP_CKSUM)
CONST(uint64_t, RTE_MBUF_F_TX_L4_MASK)
CONST(uint64_t, RTE_MBUF_F_TX_VLAN)
CONST(uint64_t, RTE_MBUF_F_LAST_FREE)
CONST(uint64_t, RTE_MBUF_F_INDIRECT)
CONST(uint64_t, RTE_MBUF_F_EXTERNAL)

/* Bit places of the lengths inside rte_mbuf.tx_offload. */
CONST(uint32_t, RTE_MBUF_L2_LEN_OFS)
CONST(uint32_t, RTE_MBUF_L2_LEN_BITS)
CONST(uint32_t, RTE_MBUF_L3_LEN_OFS)
CONST(uint32_t, RTE_MBUF_L3_LEN_BITS)

CONST(uint32_t, RTE_ETH_LINK_SPEED_AUTONEG)
CONST(uint16_t, RTE_PKTMBUF_HEADROOM)
CONST(uint32_t, RTE_MEMPOOL_CACHE_MAX_SIZE)
CONST(uint16_t, RTE_MAX_ETHPORTS)
CONST(uint32_t, RTE_ETH_NAME_MAX_LEN)
CONST(uint32_t, RTE_ETH_RETA_GROUP_SIZE)
CONST(uint32_t, LCORE_ID_ANY)
CONST(int32_t, SOCKET_ID_ANY)
