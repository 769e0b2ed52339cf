#include "moe/tokenizer/bpe_merger.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <utility>

namespace conclave {
namespace {

using Pair = std::pair<int32_t, int32_t>;

// The definition, rescanning the whole word for each merge.
std::vector<int32_t> Rescan(std::vector<int32_t> ids, const std::map<Pair, BpeMerger::Merge>& merges) {
  while (true) {
    size_t best = ids.size();
    int32_t best_rank = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto merge = merges.find({ids[i], ids[i + 1]});
      if (merge == merges.end() || (best < ids.size() && merge->second.rank >= best_rank)) continue;
      best = i;
      best_rank = merge->second.rank;
    }
    if (best == ids.size()) return ids;
    ids[best] = merges.at({ids[best], ids[best + 1]}).result;
    ids.erase(ids.begin() + best + 1);
  }
}

TEST(BpeMergerTest, AgreesWithRescanningForRandomMerges) {
  std::mt19937 random(7);
  for (int round = 0; round < 300; ++round) {
    std::map<Pair, BpeMerger::Merge> merges;
    BpeMerger merger;
    int32_t tokens = 3;
    for (int32_t rank = 0; rank < 30; ++rank) {
      const Pair pair(random() % tokens, random() % tokens);
      if (merges.count(pair) > 0) continue;
      merges[pair] = {rank, tokens};
      merger.Add(pair.first, pair.second, {rank, tokens++});
    }
    std::vector<int32_t> word(random() % 60);
    for (int32_t& id : word) id = random() % 3;
    const std::vector<int32_t> expected = Rescan(word, merges);
    BpeMerger::Scratch scratch;
    merger.Run(&word, &scratch);
    EXPECT_EQ(word, expected);
  }
}

// Merges a, aa, aaaa … and the pairs of unlike lengths: what a real vocabulary has for spaces and dashes.
BpeMerger PowersOfTwo(int levels) {
  BpeMerger merger;
  int32_t rank = 0;
  for (int32_t i = 0; i < levels; ++i) merger.Add(i, i, {rank++, i + 1});
  return merger;
}

TEST(BpeMergerTest, WorkIsLinearInTheLengthOfOneWord) {
  const BpeMerger merger = PowersOfTwo(8);
  for (int64_t length : {1 << 10, 1 << 15, 1 << 20}) {
    std::vector<int32_t> word(length, 0);
    BpeMerger::Scratch scratch;
    merger.Run(&word, &scratch);
    EXPECT_EQ(static_cast<int64_t>(word.size()), length / 256);
    // Each of the n - 1 pairs once, and two candidates for each of less than n merges.
    EXPECT_LE(scratch.candidates, 3 * length);
  }
}

TEST(BpeMergerTest, TheLeftmostOfEqualPairsMergesFirst) {
  const BpeMerger merger = PowersOfTwo(1);
  std::vector<int32_t> word = {0, 0, 0};
  BpeMerger::Scratch scratch;
  merger.Run(&word, &scratch);
  EXPECT_EQ(word, (std::vector<int32_t>{1, 0}));
}

}  // namespace
}  // namespace conclave
