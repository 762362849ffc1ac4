package org.example.linear;

import java.util.Arrays;
import java.util.Objects;

/** A dense matrix of doubles, row by row. */
public final class Matrix {
    private final int rows;
    private final int columns;
    private final double[] values;

    public Matrix(int rows, int columns) {
        if (rows <= 0 || columns <= 0) {
            throw new IllegalArgumentException("a matrix has at least one row and one column");
        }
        this.rows = rows;
        this.columns = columns;
        this.values = new double[rows * columns];
    }

    public Matrix multiply(Matrix other) {
        Objects.requireNonNull(other);
        Matrix result = new Matrix(rows, other.columns);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < other.columns; j++) {
                double sum = 0;
                for (int k = 0; k < columns; k++) {
                    sum += values[i * columns + k] * other.values[k * other.columns + j];
                }
                result.values[i * other.columns + j] = sum;
            }
        }
        return result;
    }

    @Override
    public String toString() {
        return rows + "x" + columns + " " + Arrays.toString(values);
    }
}
