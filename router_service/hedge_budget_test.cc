#include "router_service/hedge_budget.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(HedgeBudget, IsAShareOfWhatWasSent) {
  HedgeBudget budget(0.25);
  EXPECT_FALSE(budget.Take(1)) << "it starts empty";
  budget.OnSent(16);
  EXPECT_FALSE(budget.Take(5));
  EXPECT_TRUE(budget.Take(3));
  EXPECT_FALSE(budget.Take(2));
  EXPECT_TRUE(budget.Take(1));
  EXPECT_FALSE(budget.Take(1));
}

TEST(HedgeBudget, NeverHoldsMoreThanItsBurst) {
  HedgeBudget budget(0.5, /*burst=*/8);
  budget.OnSent(1000);
  EXPECT_FALSE(budget.Take(9));
  EXPECT_TRUE(budget.Take(8));
  budget.OnSent(1000);
  budget.GiveBack(8);
  EXPECT_FALSE(budget.Take(9));
}

TEST(HedgeBudget, WhatWasGivenBackMayBeTakenAgain) {
  HedgeBudget budget(0.5);
  budget.OnSent(8);
  EXPECT_TRUE(budget.Take(4));
  budget.GiveBack(4);
  EXPECT_FALSE(budget.Take(5));
  EXPECT_TRUE(budget.Take(4));
  EXPECT_FALSE(budget.Take(1));
}

}  // namespace
}  // namespace conclave
