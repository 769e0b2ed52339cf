#include "router_service/kv_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <vector>

namespace conclave {
namespace {

TEST(KvBlockPoolTest, HandsOutEveryBlockOnceAndThenNone) {
  KvBlockPool pool(5);
  std::set<int32_t> seen;
  for (int i = 0; i < 5; ++i) {
    const auto block = pool.Allocate();
    ASSERT_TRUE(block.has_value());
    EXPECT_EQ(pool.references(*block), 1);
    seen.insert(*block);
  }
  EXPECT_EQ(seen, (std::set<int32_t>{0, 1, 2, 3, 4}));
  EXPECT_FALSE(pool.Allocate().has_value());
  EXPECT_EQ(pool.held(), 5);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(KvBlockPoolTest, ASharedBlockIsFreeOnlyAfterItsLastOwner) {
  KvBlockPool pool(1);
  const int32_t block = *pool.Allocate();
  pool.AddReference(block);
  pool.Release(block);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_FALSE(pool.Allocate().has_value());
  pool.Release(block);
  EXPECT_EQ(pool.free(), 1);
  EXPECT_EQ(pool.Allocate(), block);
}

TEST(KvBlockPoolDeathTest, RefusesToFreeABlockTwiceOrToShareAFreeOne) {
  KvBlockPool pool(2);
  const int32_t block = *pool.Allocate();
  pool.Release(block);
  EXPECT_DEATH(pool.Release(block), "released twice");
  EXPECT_DEATH(pool.AddReference(block), "is free");
  EXPECT_DEATH(pool.Release(7), "block 7 of 2");
}

TEST(PageTableTest, GrowsByWholeBlocksAndAllOrNothing) {
  KvBlockPool pool(3);
  PageTable pages(pool, 16);
  EXPECT_TRUE(pages.Grow(0));
  EXPECT_EQ(pages.blocks().size(), 0u);
  EXPECT_TRUE(pages.Grow(1));
  EXPECT_EQ(pages.blocks().size(), 1u);
  EXPECT_TRUE(pages.Grow(16));
  EXPECT_EQ(pages.blocks().size(), 1u);
  EXPECT_TRUE(pages.Grow(17));
  EXPECT_EQ(pages.capacity_tokens(), 32);
  EXPECT_EQ(pages.reachable_tokens(), 48);
  EXPECT_FALSE(pages.Grow(49));
  EXPECT_EQ(pages.blocks().size(), 2u) << "a refused growth must take nothing";
  EXPECT_TRUE(pages.Grow(5)) << "what fits already needs nothing";
  pages.Clear();
  EXPECT_EQ(pool.free(), 3);
}

TEST(PageTableTest, GivesItsBlocksBackWhenItDiesButNotThoseThatOthersShare) {
  KvBlockPool pool(4);
  PageTable first(pool, 4);
  ASSERT_TRUE(first.Grow(8));
  {
    PageTable second(pool, 4);
    second.AppendShared(first.blocks()[0]);
    ASSERT_TRUE(second.Grow(6));
    EXPECT_EQ(second.blocks()[0], first.blocks()[0]);
    EXPECT_NE(second.blocks()[1], first.blocks()[1]);
    EXPECT_EQ(pool.held(), 3);
  }
  EXPECT_EQ(pool.held(), 2);
  EXPECT_EQ(pool.references(first.blocks()[0]), 1);
  EXPECT_TRUE(pool.CheckInvariants().ok());
}

TEST(PageTableTest, KeepsItsInvariantsThroughRandomUse) {
  std::mt19937 random(7);
  KvBlockPool pool(40);
  std::vector<std::unique_ptr<PageTable>> tables;
  for (int step = 0; step < 20000; ++step) {
    switch (random() % 4) {
      case 0:
        if (tables.size() < 12) tables.push_back(std::make_unique<PageTable>(pool, 3));
        break;
      case 1:
        if (!tables.empty()) tables.erase(tables.begin() + random() % tables.size());
        break;
      case 2:
        if (!tables.empty()) {
          PageTable& table = *tables[random() % tables.size()];
          const int64_t wanted = table.capacity_tokens() + static_cast<int64_t>(random() % 20);
          const bool fits = wanted <= table.reachable_tokens();
          EXPECT_EQ(table.Grow(wanted), fits);
        }
        break;
      default:
        if (tables.size() >= 2) {
          PageTable& from = *tables[random() % tables.size()];
          PageTable& to = *tables[random() % tables.size()];
          if (&from != &to && !from.blocks().empty() && to.blocks().size() < 20) to.AppendShared(from.blocks()[0]);
        }
    }
    std::vector<int32_t> owners(pool.total(), 0);
    for (const auto& table : tables) {
      for (int32_t block : table->blocks()) ++owners[block];
    }
    for (int32_t block = 0; block < pool.total(); ++block) ASSERT_EQ(pool.references(block), owners[block]);
    ASSERT_TRUE(pool.CheckInvariants().ok()) << pool.CheckInvariants();
  }
  tables.clear();
  EXPECT_EQ(pool.free(), pool.total());
}

}  // namespace
}  // namespace conclave
