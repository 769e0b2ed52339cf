// Which attention service should take a request: one that knows its prompt, unless it has too much to do. Pure
// functions.
#ifndef CONCLAVE_GATEWAY_ROUTERS_BALANCE_H_
#define CONCLAVE_GATEWAY_ROUTERS_BALANCE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave {

// One service, as far as the choice needs to know it.
struct Candidate {
  std::string name;  // by which it is found again: its address
  bool usable = true;
  int load = 0;  // sequences that run or wait there
};

// What prompts have in common that should meet in one cache: a hash of the first kAffinityBlocks full blocks of
// kAffinityBlockTokens ids, or as many as there are, and of the salt. 0: too short to be worth it.
inline constexpr int kAffinityBlockTokens = 64, kAffinityBlocks = 4;
uint64_t AffinityKey(absl::Span<const int32_t> prompt_ids, absl::string_view salt);

// The usable candidates in the order in which to try them. With a key: by rendezvous hashing (Thaler and Ravishankar
// 1998), so that a service which comes or goes moves only its own share of keys; those whose load is above the bound of
// consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018; 1.25 times the mean) go behind, by load.
// Without a key: by load.
std::vector<int> Rank(uint64_t key, absl::Span<const Candidate> candidates);

}  // namespace conclave

#endif  // CONCLAVE_GATEWAY_ROUTERS_BALANCE_H_
