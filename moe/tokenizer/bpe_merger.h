// Byte-pair merges: joins neighbouring tokens, the pair of lowest rank first and the leftmost of equals, until no
// pair is left (Sennrich et al. 2016, https://arxiv.org/abs/1508.07909). A heap of candidates keeps a word of n bytes
// at O(n log n): words may be a megabyte long.
#ifndef CONCLAVE_MOE_TOKENIZER_BPE_MERGER_H_
#define CONCLAVE_MOE_TOKENIZER_BPE_MERGER_H_

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace conclave {

// Immutable once filled, then thread-safe.
class BpeMerger {
 public:
  struct Merge {
    int32_t rank;    // lower merges earlier
    int32_t result;  // the id of the joined token
  };
  // Memory that is reused from word to word; one per thread.
  struct Scratch;

  // A pair that was added before gets the new rank.
  void Add(int32_t left, int32_t right, Merge merge) { merges_[Key(left, right)] = merge; }
  int64_t size() const { return static_cast<int64_t>(merges_.size()); }
  void Reserve(int64_t pairs) { merges_.reserve(pairs); }

  // Merges the tokens of one word in place.
  void Run(std::vector<int32_t>* ids, Scratch* scratch) const;

 private:
  static uint64_t Key(int32_t left, int32_t right) {
    return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
  }
  void Consider(int32_t left_node, Scratch* scratch) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;
};

// Working memory of one Encode call.
struct BpeMerger::Scratch {
  struct Node {
    int32_t id;              // -1 once it was swallowed by its left neighbour
    int32_t previous, next;  // indices of nodes; -1 at the ends
  };
  struct Candidate {
    int32_t rank, node;   // the pair's left node
    int32_t left, right;  // the ids when it was found: stale once they have changed
    int32_t result;
  };
  std::vector<Node> nodes;
  std::vector<Candidate> heap;
  int64_t candidates = 0;  // how many were ever put into the heap: the work done, for tests
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_TOKENIZER_BPE_MERGER_H_
