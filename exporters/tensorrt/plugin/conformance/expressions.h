// Extents as the builder hands them to plugins: constants, variables and what is computed of them.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <vector>

#include "../src/tensorrt.h"

namespace conformance {

/// TensorRT's class is a shell round an implementation, which is this object too.
class Expression final : public nvinfer1::IDimensionExpr, private nvinfer1::apiv::VDimensionExpr {
   public:
    Expression(bool is_constant, std::function<int64_t()> evaluate)
        : is_constant_(is_constant), evaluate_(std::move(evaluate)) {
        mImpl = this;
    }

    int64_t value() const { return evaluate_(); }

   private:
    bool isConstant() const override { return is_constant_; }
    int64_t getConstantValue() const override { return is_constant_ ? evaluate_() : std::numeric_limits<int64_t>::min(); }
    bool isSizeTensor() const override { return false; }

    bool is_constant_;
    std::function<int64_t()> evaluate_;
};

/// Makes expressions and keeps them.
class Expressions final : public nvinfer1::IExprBuilder, private nvinfer1::apiv::VExprBuilder {
   public:
    Expressions() { mImpl = this; }

    /// An extent that is known when it is evaluated.
    const nvinfer1::IDimensionExpr *variable(const int64_t &value) {
        return keep(false, [&value] { return value; });
    }
    const nvinfer1::IDimensionExpr *constant(int64_t value) override {
        return keep(true, [value] { return value; });
    }

   private:
    const nvinfer1::IDimensionExpr *operation(nvinfer1::DimensionOperation operation, const nvinfer1::IDimensionExpr &first,
                                              const nvinfer1::IDimensionExpr &second) override {
        const auto &a = static_cast<const Expression &>(first), &b = static_cast<const Expression &>(second);
        const bool is_constant = first.isConstant() && second.isConstant();
        using nvinfer1::DimensionOperation;
        switch (operation) {
            case DimensionOperation::kSUM:
                return keep(is_constant, [&a, &b] { return a.value() + b.value(); });
            case DimensionOperation::kPROD:
                return keep(is_constant, [&a, &b] { return a.value() * b.value(); });
            case DimensionOperation::kSUB:
                return keep(is_constant, [&a, &b] { return a.value() - b.value(); });
            case DimensionOperation::kFLOOR_DIV:
                return keep(is_constant, [&a, &b] { return a.value() / b.value(); });
            default:
                return nullptr;  // no op needs others
        }
    }
    const nvinfer1::IDimensionExpr *declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr &,
                                                      const nvinfer1::IDimensionExpr &) override {
        return nullptr;
    }

    const nvinfer1::IDimensionExpr *keep(bool is_constant, std::function<int64_t()> evaluate) {
        kept_.push_back(std::make_unique<Expression>(is_constant, std::move(evaluate)));
        return kept_.back().get();
    }

    std::vector<std::unique_ptr<Expression>> kept_;
};

}  // namespace conformance
