/*
 * Compiled, never called. rust_layout.h holds what the Rust side believes
 * (`#define RUST_struct_field offset`), written by build.rs from the generated bindings.
 */
#include <stddef.h>

#include <rte_ethdev.h>
#include <rte_hash.h>
#include <rte_mbuf.h>

#include "rust_layout.h"

#define FIELD(type, field)                                                              \
	_Static_assert(offsetof(struct type, field) == RUST_LAYOUT_##type##_##field,    \
		       "Rust and C disagree about the offset of " #type "." #field);
#define SIZE(type)                                                                      \
	_Static_assert(sizeof(struct type) == RUST_SIZE_##type,                         \
		       "Rust and C disagree about the size of " #type);
#include "layout.h"
