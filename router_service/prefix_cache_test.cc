#include "router_service/prefix_cache.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <utility>
#include <vector>

namespace conclave {
namespace {

using Tokens = std::vector<int32_t>;

TEST(PrefixCacheTest, FindsABlockByItsTokensAndByAllThatStandsBeforeThem) {
  KvBlockPool pool(8);
  PrefixCache cache(pool, 2);
  const PrefixId root = PrefixCache::Root("");
  const int32_t first = *pool.Allocate(), second = *pool.Allocate();
  const PrefixBlock a = cache.Insert(root, Tokens{1, 2}, first);
  const PrefixBlock b = cache.Insert(a.prefix, Tokens{3, 4}, second);
  EXPECT_EQ(a.block, first);
  EXPECT_EQ(cache.Find(root, Tokens{1, 2})->block, first);
  EXPECT_EQ(cache.Find(a.prefix, Tokens{3, 4})->block, second);
  EXPECT_EQ(cache.Find(a.prefix, Tokens{3, 4})->prefix, b.prefix);
  EXPECT_FALSE(cache.Find(root, Tokens{3, 4}).has_value());
  EXPECT_FALSE(cache.Find(root, Tokens{1, 3}).has_value());
  EXPECT_FALSE(cache.Find(b.prefix, Tokens{3, 4}).has_value());
  EXPECT_FALSE(cache.Find(PrefixCache::Root("other"), Tokens{1, 2}).has_value()) << "another salt";
}

TEST(PrefixCacheTest, TheSecondBlockOfTheSamePrefixGivesWayToTheFirst) {
  KvBlockPool pool(4);
  PrefixCache cache(pool, 1);
  const int32_t first = *pool.Allocate(), second = *pool.Allocate();
  const PrefixBlock one = cache.Insert(PrefixCache::Root(""), Tokens{5}, first);
  const PrefixBlock two = cache.Insert(PrefixCache::Root(""), Tokens{5}, second);
  EXPECT_EQ(two.block, first);
  EXPECT_EQ(two.prefix, one.prefix);
  pool.Release(second);
  EXPECT_EQ(pool.cached(), 0);
  EXPECT_EQ(pool.free(), 3) << "it was never kept";
}

TEST(PrefixCacheTest, KeepsReleasedBlocksUntilTheyAreNeededAndThenTakesTheLeastRecentlyUsed) {
  KvBlockPool pool(3);
  PrefixCache cache(pool, 1);
  const PrefixId root = PrefixCache::Root("");
  std::vector<int32_t> blocks;
  for (int32_t token = 0; token < 3; ++token) {
    blocks.push_back(*pool.Allocate());
    cache.Insert(root, Tokens{token}, blocks.back());
  }
  for (int32_t block : blocks) pool.Release(block);
  EXPECT_EQ(pool.cached(), 3);
  EXPECT_EQ(pool.available(), 3);
  EXPECT_EQ(pool.held(), 0);
  pool.AddReference(blocks[0]);  // used again, so that 1 is now the one used least recently
  pool.Release(blocks[0]);
  EXPECT_EQ(*pool.Allocate(), blocks[1]);
  EXPECT_FALSE(cache.Find(root, Tokens{1}).has_value());
  EXPECT_TRUE(cache.Find(root, Tokens{0}).has_value());
  EXPECT_EQ(*pool.Allocate(), blocks[2]);
  EXPECT_EQ(*pool.Allocate(), blocks[0]);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_FALSE(pool.Allocate().has_value());
}

TEST(PrefixCacheTest, TheEndOfAPrefixIsEvictedBeforeItsBeginning) {
  KvBlockPool pool(4);
  PrefixCache cache(pool, 1);
  PageTable pages(pool, 1);
  ASSERT_TRUE(pages.Grow(4));
  PrefixId parent = PrefixCache::Root("");
  std::vector<PrefixId> parents;
  for (int32_t token = 0; token < 4; ++token) {
    parents.push_back(parent);
    parent = cache.Insert(parent, Tokens{token}, pages.blocks()[token]).prefix;
  }
  pages.Clear();
  for (int32_t left = 3; left >= 0; --left) {
    ASSERT_TRUE(pool.Allocate().has_value());
    for (int32_t token = 0; token < 4; ++token) {
      EXPECT_EQ(cache.Find(parents[token], Tokens{token}).has_value(), token < left) << token << " of " << left;
    }
  }
}

// Random page tables over few tokens, so that prefixes meet, checked against what each block must hold.
TEST(PrefixCacheTest, NeverHandsOutABlockWithOtherTokensThroughRandomUse) {
  constexpr int kBlockTokens = 2;
  std::mt19937 random(11);
  KvBlockPool pool(24);
  PrefixCache cache(pool, kBlockTokens);
  struct Live {
    Tokens tokens;
    std::unique_ptr<PageTable> pages;
  };
  std::vector<Live> lives;
  std::map<int32_t, Tokens> content;  // all tokens up to the end of the block
  int hits = 0;
  for (int step = 0; step < 30000; ++step) {
    if (!lives.empty() && random() % 2 == 0) {
      lives.erase(lives.begin() + static_cast<int64_t>(random() % lives.size()));
      continue;
    }
    Live live{Tokens(kBlockTokens * (1 + random() % 5)), std::make_unique<PageTable>(pool, kBlockTokens)};
    for (int32_t& token : live.tokens) token = static_cast<int32_t>(random() % 2);
    PrefixId parent = PrefixCache::Root(random() % 2 == 0 ? "" : "salt");
    const int64_t blocks = static_cast<int64_t>(live.tokens.size()) / kBlockTokens;
    const auto upto = [&](int64_t block) {
      return Tokens(live.tokens.begin(), live.tokens.begin() + (block + 1) * kBlockTokens);
    };
    bool full = false;
    for (int64_t block = 0; block < blocks && !full; ++block) {
      const auto tokens = absl::MakeConstSpan(live.tokens).subspan(block * kBlockTokens, kBlockTokens);
      if (const auto found = cache.Find(parent, tokens); found.has_value()) {
        live.pages->AppendShared(found->block);
        ASSERT_EQ(content.at(found->block), upto(block));
        parent = found->prefix;
        ++hits;
        continue;
      }
      full = !live.pages->Grow((block + 1) * kBlockTokens);
      if (full) break;
      content[live.pages->blocks()[block]] = upto(block);
      parent = cache.Insert(parent, tokens, live.pages->blocks()[block]).prefix;
    }
    if (!full) lives.push_back(std::move(live));
    ASSERT_TRUE(pool.CheckInvariants().ok()) << pool.CheckInvariants();
  }
  EXPECT_GT(hits, 1000);
  lives.clear();
  EXPECT_EQ(pool.available(), pool.total());
}

}  // namespace
}  // namespace conclave
