#include "moe/tokenizer/bpe_merger.h"

#include <algorithm>

namespace conclave {
namespace {

// std heaps put the greatest first: "greater" is what merges earlier.
struct MergesLater {
  bool operator()(const BpeMerger::Scratch::Candidate& a, const BpeMerger::Scratch::Candidate& b) const {
    return a.rank != b.rank ? a.rank > b.rank : a.node > b.node;
  }
};

}  // namespace

void BpeMerger::Consider(int32_t left_node, Scratch* scratch) const {
  const Scratch::Node& left = scratch->nodes[left_node];
  if (left.next < 0) return;
  const int32_t right_id = scratch->nodes[left.next].id;
  const auto found = merges_.find(Key(left.id, right_id));
  if (found == merges_.end()) return;
  scratch->heap.push_back({found->second.rank, left_node, left.id, right_id, found->second.result});
  ++scratch->candidates;
}

void BpeMerger::Run(std::vector<int32_t>* ids, Scratch* scratch) const {
  const int32_t count = static_cast<int32_t>(ids->size());
  if (count < 2) return;
  auto& nodes = scratch->nodes;
  auto& heap = scratch->heap;
  nodes.resize(count);
  heap.clear();
  for (int32_t i = 0; i < count; ++i) nodes[i] = {(*ids)[i], i - 1, i + 1 < count ? i + 1 : -1};
  for (int32_t i = 0; i < count; ++i) Consider(i, scratch);
  std::make_heap(heap.begin(), heap.end(), MergesLater());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), MergesLater());
    const Scratch::Candidate best = heap.back();
    heap.pop_back();
    Scratch::Node& left = nodes[best.node];
    if (left.id != best.left || left.next < 0 || nodes[left.next].id != best.right) continue;
    Scratch::Node& right = nodes[left.next];
    left.id = best.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) nodes[left.next].previous = best.node;
    // Each merge adds at most two candidates, so that all words together cost at most 3n of them.
    for (const int32_t node : {left.previous, best.node}) {
      const size_t before = heap.size();
      if (node >= 0) Consider(node, scratch);
      if (heap.size() > before) std::push_heap(heap.begin(), heap.end(), MergesLater());
    }
  }
  ids->clear();
  for (int32_t i = 0; i >= 0; i = nodes[i].next) ids->push_back(nodes[i].id);
}

}  // namespace conclave
